"""What an ingest says of its input right after it has read it."""

import contextlib
import hashlib
import logging
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from components.image_example_gen.account import Account
from components.image_example_gen.ingest import ingest
from components.image_example_gen.input_overview import OVERVIEW, InputOverview
from components.image_sources.config import InputConfig
from components.image_sources.corrections import read_corrections
from tests import archives
from trainer.errors import InputError


def look(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, files: dict[str, bytes], **config: Any
) -> InputOverview:
    """The overview that an ingest attaches to its log record, whether or not it then fails."""
    path = archives.write(tmp_path / "input.zip", files)
    settings = InputConfig.model_validate({"paths": str(path), **config})
    caplog.clear()
    with caplog.at_level(logging.INFO), contextlib.suppress(InputError):
        ingest(settings, str(tmp_path / "out"), beam.Pipeline, processes=0)
    (overview,) = [vars(record)[OVERVIEW] for record in caplog.records if hasattr(record, OVERVIEW)]
    assert isinstance(overview, InputOverview)
    return overview


def images(*names: str) -> dict[str, bytes]:
    return {name: archives.png(number) for number, name in enumerate(names)}


def test_classes_by_split_and_what_named_them(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    names = [f"train/{label}/{i}.png" for label in ("cat", "dog") for i in range(8)]
    names += [f"test_set/{label}/{i}.png" for label in ("cat", "dog") for i in range(2)]
    splits = {"validation": 0, "calibration": 0}
    overview = look(caplog, tmp_path, images(*names), splits=splits)
    assert overview.header == ("class", "train", "test", "all")
    assert overview.rows == [
        ("cat", "8", "2", "10"),
        ("dog", "8", "2", "10"),
        ("2 classes", "16", "4", "20"),
    ]
    assert overview.sources == [
        "labels: from the folder of the image, 20 images",
        "split train: from 'train/', 16 images",
        "split test: from 'test_set/', 4 images",
    ]
    assert overview.warnings == []


def test_ten_largest_and_smallest_classes(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    names = [f"c{label:02}/{i}.png" for label in range(25) for i in range(2 + label)]
    overview = look(caplog, tmp_path, images(*names))
    assert len(overview.rows) == 22
    assert overview.rows[0][0] == "c24"
    assert overview.rows[10][0] == "... 5 more classes"
    assert overview.rows[-2][0] == "c00"
    assert (overview.rows[-1][0], overview.rows[-1][-1]) == ("25 classes", "350")


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (["all/cats/1.png", "all/cats/2.png"], "one class only, 'cats'"),
        (
            ["train/a/1.png", "train/b/1.png", "test/1.png"],
            "'test/' was taken for a split, but 1 image directly in it got no label",
        ),
        (
            ["bullet_train/1.png", "cat/1.png"],
            "like a split, but taken for none, is the name of 'bullet_train/' (1 image)",
        ),
        (
            ["photos/1.png", "drawings/1.png", "paintings/1.png"],
            "no class is named by 'photos/', so that 1 image got no label; to learn it as a class",
        ),
        (["train_test_split/a/1.png", "b/1.png"], "is the name of 'train_test_split/'"),
        (
            ["train/a/1.png", "train/b/2.png", "test/a/3.png"],
            "1 class ('b') without test images",
        ),
        (
            ["top/train/a/1.png", "top/test/a/2.png", "top/held_out/a/3.png", "top/query/b/4.png"],
            "'held_out/', 'query/': 2 images outside of the folders of splits",
        ),
        (["a/1.png", "b/2.png"], "2 classes ('a', 'b') with fewer than 5 images"),
        (["Cat/1.png", "cat /2.png"], "only by case, spaces or Unicode form: 'Cat', 'cat '"),
        (["a/1.png", "b/.hidden/2.png"], "1 ignored by name: 1 hidden (b/.hidden/2.png)"),
        (["a\n/1.png", "b/2.png"], "were changed: 'a\\n' is 'a'"),
        (
            [f"{'苹果'.encode('gbk').decode('cp437')}/1.png", "b/2.png"],
            "1 class ('╞╗╣√') with a name that looks misread: if a zip has names in another",
        ),
        (
            [f"{'Кошка'.encode('cp866').decode('cp437')}/1.png", "b/2.png"],
            "set input.names_encoding, such as gbk, cp866",
        ),
    ],
)
def test_warnings(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, names: list[str], warning: str
) -> None:
    found = look(caplog, tmp_path, images(*names)).warnings
    assert any(warning in line for line in found), found
    assert not any("\n" in line for line in found)


def test_every_kind_of_reject_is_named() -> None:
    account = Account()
    for number, kind in enumerate(("AVIF", "HEIC", "PDF", "SVG", "TIFF", "taken_out"), start=1):
        account.faults.add(f"unsupported_format, {kind}" if number < 6 else kind, "a/x", number)
    account.faults.add("empty", "a/y", 9)
    *first, last = account.notes()
    assert first[0] == "9 rejected: empty (a/y)"
    assert first[-1] == "2 rejected: unsupported_format, HEIC (a/x)"
    assert last == "1 more rejected: 1 unsupported_format, AVIF"
    assert not any("taken_out" in note for note in account.notes())


def test_an_archive_without_entries_is_named(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for day in ("2026-11-05", "2026-11-06"):
        archives.write(tmp_path / f"{day}.zip", {})
    names = [f"{label}/{i}.png" for label in "ab" for i in range(9)]
    found = look(caplog, tmp_path, images(*names), paths=f"{tmp_path}/*.zip").warnings
    assert any(
        line.startswith("2 sources without any entry: ") and "2026-11-05.zip" in line
        for line in found
    ), found


def test_values_that_stand_for_no_label(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    archives.write_folder(tmp_path, {f"{i}.png": archives.png(i) for i in range(12)})
    rows = [f"{i}.png,{('-1', '1', 'nan')[i % 3]}\n" for i in range(12)]
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(rows))
    found = look(caplog, tmp_path, {}, paths=str(tmp_path / "a.csv")).warnings
    assert any("2 classes ('-1', 'nan') called like a missing value" in line for line in found)
    assert not any("differ only by case" in line for line in found)


def test_corrections_and_conflicts_are_counted(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    files = images(*(f"{label}/{i}.png" for label in ("cat", "dog") for i in range(8)))
    conflict = {"dog/copy.png": files["cat/0.png"]}
    given = tmp_path / "c.csv"
    given.write_text(f"sha256,label\n{hashlib.sha256(files['cat/1.png']).hexdigest()},dog\n")
    corrections = {"corrections": str(given)}
    overview = look(caplog, tmp_path, {**files, **conflict}, labels=corrections)
    assert "corrections: 1 label changed, 0 images taken out" in overview.sources
    (warning,) = [line for line in overview.warnings if "two labels" in line]
    path = tmp_path / "input.zip"
    assert warning == (
        f"1 image under two labels, such as '{path}/cat/0.png' ('cat'): the first in source order"
        " counts; duplicates.parquet lists all"
    )
    given.write_text(f"sha256,label\n{'0' * 64},dog\n")
    read_corrections.cache_clear()
    overview = look(caplog, tmp_path, files, labels=corrections)
    assert "corrections: 0 labels changed, 0 images taken out" in overview.sources
