"""Near-duplicates in ingest: groups, splits, dropped copies, and both ways to run it."""

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.image_example_gen.account import Account
from components.image_example_gen.ingest import ingest
from components.image_sources.config import DuplicatesConfig, InputConfig
from pipeline.config import load_config
from tests import archives
from tests.components.test_image_example_gen import by_digest
from tests.near_copies import COPIES, brighter, darker, picture, png_of, reencoded
from trainer.config import ImageConfig

IMAGE = ImageConfig(height=48, width=48)
DIM = ["dark", "low_contrast"]
SPLITS = {"validation": 0.2, "calibration": 0.2, "test": 0.2}


def run(output: Path, processes: int = 0, **config: Any) -> Account:
    near = config.pop("near", "group")
    values = {"units": {"members": 20, "batch": 8}, "splits": SPLITS, **config}
    return ingest(
        InputConfig.model_validate({**values, "duplicates": {"near": near}}),
        str(output),
        lambda: beam.Pipeline(FnApiRunner()),
        processes=processes,
        image=IMAGE,
    )


def table(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(output / "near_duplicates.parquet").to_pylist()
    return rows


def low() -> np.ndarray:
    """A picture that is too dark."""
    return picture(99) // 5


def findings(output: Path) -> list[tuple[str, str, list[str], str]]:
    """Name, split, findings and digest of each row."""
    return [
        (Path(row["image"]).stem, row["split"], row["findings"], row["sha256"])
        for row in pq.read_table(output / "findings.parquet").to_pylist()
    ]


def splits_by_name(output: Path) -> dict[str, str]:
    return {Path(row["image"]).stem: row["split"] for row in table(output)}


def classes(number: int = 40) -> archives.Files:
    """Pictures of two classes, of which every other one has copies."""
    files = {}
    for seed in range(number):
        folder = "cat" if seed % 2 else "dog"
        files[f"{folder}/{seed}.png"] = png_of(picture(seed))
        for copy in COPIES[: seed % 4]:
            files[f"{folder}/{seed}-{copy.__name__}.png"] = png_of(copy(picture(seed)))
    return files


def content_of(output: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.glob("Split-*/*.tfrecord"))
    }


def test_no_group_crosses_a_split(tmp_path: Path) -> None:
    path = str(archives.write(tmp_path / "a.zip", classes()))
    account = run(tmp_path / "out", paths=path)
    rows = table(tmp_path / "out")
    by_source: dict[str, set[str]] = {}
    for row in rows:
        by_source.setdefault(Path(row["image"]).stem.split("-")[0], set()).add(row["split"])
    assert len(by_source) == 30
    assert all(len(splits) == 1 for splits in by_source.values())
    assert len(set.union(*by_source.values())) == 4
    found = by_digest(tmp_path / "out")
    assert all(found[row["sha256"].encode()][0] == row["split"] for row in rows)
    assert sum(row["moved"] for row in rows) == account.near["moved"] > 10
    assert account.near["groups"] == 30
    assert account.near["images"] == len(rows) == 90
    assert account.near["dropped"] == 0
    assert account.examples.total() == account.images_in == len(found) == 100
    told = json.loads((tmp_path / "out/account.json").read_text())
    assert told["near_duplicates"] == dict(account.near, dropped=0)
    # Without grouping, several groups lie in more than one split, and nothing moves.
    plain, reported = run(tmp_path / "off", near="off", paths=path), None
    reported = run(tmp_path / "report", near="report", paths=path)
    assert content_of(tmp_path / "report") == content_of(tmp_path / "off")
    assert not (tmp_path / "off/near_duplicates.parquet").exists()
    assert plain.near.total() == 0
    assert reported.near["crossing"] == account.near["crossing"] > 5
    assert reported.near["moved"] == 0
    assert plain.examples == reported.examples
    assert len(table(tmp_path / "report")) == 90


@pytest.mark.parametrize("name", ["a.zip", "tree"])
def test_processes_find_what_beam_finds(tmp_path: Path, name: str) -> None:
    files = {**classes(), "test/cat/x.png": png_of(brighter(picture(7)))}
    files["cat/again.png"] = files["cat/1.png"]
    black = png_of(np.full((48, 48, 1), 3, np.uint8))
    files |= {"cat/black.png": black, "dog/black.png": black, "test/dog/low.png": png_of(low())}
    path = str(archives.write(tmp_path / name, files))
    by_beam = run(tmp_path / "beam", 0, paths=path)
    by_processes = run(tmp_path / "processes", 2, paths=path)
    by_beam.seconds = by_processes.seconds = 0.0
    assert by_processes == by_beam
    assert content_of(tmp_path / "processes") == content_of(tmp_path / "beam")
    assert table(tmp_path / "processes") == table(tmp_path / "beam")
    assert by_beam.near["dropped"] >= 4
    rows = [findings(tmp_path / each) for each in ("beam", "processes")]
    # The second black one is an exact copy, and copies are dropped.
    splits = by_digest(tmp_path / "beam")
    assert [(row[0], row[2]) for row in rows[0]] == [("black", ["blank"]), ("low", DIM)]
    assert [row[1] for row in rows[0]] == [splits[row[3].encode()][0] for row in rows[0]]
    assert rows[1] == rows[0]
    assert (by_beam.findings["blank"], by_beam.with_findings) == (1, 2)
    # The size of units has no influence on groups, splits and counts.
    small = run(tmp_path / "small", 0, paths=path, units={"members": 7, "batch": 3})
    assert small.near == by_beam.near
    assert by_digest(tmp_path / "small") == by_digest(tmp_path / "beam")


def test_copies_of_named_test_images_are_dropped(tmp_path: Path) -> None:
    files = {f"train/cat/{seed}.png": png_of(picture(seed)) for seed in range(12)}
    files |= {f"train/dog/{seed}.png": png_of(picture(seed)) for seed in range(20, 32)}
    files |= {f"test/cat/t{seed}.png": png_of(brighter(picture(seed))) for seed in (1, 2)}
    files |= {f"test/dog/t{seed}.png": png_of(picture(seed)) for seed in (41, 42)}
    files |= {f"unlabelled/u{seed}.png": png_of(reencoded(picture(seed))) for seed in (2, 3, 41)}
    path = str(archives.write(tmp_path / "tree", files))
    account = run(tmp_path / "out", paths=path)
    rows = {Path(row["image"]).stem: row for row in table(tmp_path / "out")}
    assert {name for name, row in rows.items() if row["dropped"]} >= {"1", "2", "u2", "u41"}
    assert [rows[name]["split"] for name in ("t1", "t2", "t41")] == ["test"] * 3
    # An unlabelled copy stays beside a training image.
    assert rows["u3"]["dropped"] == (rows["3"]["split"] != "train")
    assert account.by_split()["test"] == {"cat": 2, "dog": 2}
    dropped = sum(row["dropped"] for row in rows.values())
    assert account.near["dropped"] == dropped
    assert account.images_in == len(files)
    assert account.examples.total() == len(files) - dropped
    assert f"+ {dropped} near-duplicates dropped" in account.summary()


def test_a_copy_in_a_later_span_takes_the_split_of_the_earlier_one(tmp_path: Path) -> None:
    first = {
        f"{'cat' if seed % 2 else 'dog'}/{seed}.png": png_of(picture(seed)) for seed in range(40)
    }
    later = {name.replace(".png", "-b.png"): png_of(darker(picture(seed)))
             for seed, name in enumerate(first)}  # fmt: skip
    one = str(archives.write(tmp_path / "span-1.zip", first))
    two = str(archives.write(tmp_path / "span-2.zip", later))
    run(tmp_path / "one", paths=one)
    run(tmp_path / "both", paths=[one, two])
    before, after = by_digest(tmp_path / "one"), by_digest(tmp_path / "both")
    assert all(after[digest] == found for digest, found in before.items())
    splits = splits_by_name(tmp_path / "both")
    assert len(splits) == 80
    assert all(splits[f"{seed}-b"] == splits[f"{seed}"] for seed in range(40))


def test_exact_copies_go_with_their_group(tmp_path: Path) -> None:
    files = dict(classes())
    for seed in range(1, 40, 4):
        name = f"{('dog', 'cat')[seed % 2]}/{seed}"
        files[f"{name}-again.png"] = files[f"{name}-reencoded.png"]
    path = str(archives.write(tmp_path / "a.zip", files))
    for exact, kept in (("keep", 10), ("drop", 0)):
        output = tmp_path / exact
        config = {"duplicates": {"exact": exact, "near": "group"}, "splits": SPLITS}
        account = ingest(
            InputConfig.model_validate({"paths": path, **config}),
            str(output),
            lambda: beam.Pipeline(FnApiRunner()),
            image=IMAGE,
        )
        splits = splits_by_name(output)
        exact_rows = pq.read_table(output / "duplicates.parquet").to_pylist()
        assert len(exact_rows) == 20
        kept_rows = [row for row in exact_rows if not row["dropped"]]
        assert all(row["split"] == splits[Path(row["image"]).stem] for row in kept_rows)
        assert len(kept_rows) == 10 + kept
        assert account.images_in == len(files)
        assert account.examples.total() == len(files) - 10 + kept


def test_settings_in_short_and_with_yaml_words() -> None:
    config = InputConfig.model_validate({"paths": "a.zip", "duplicates": "keep"})
    assert (config.duplicates.exact, config.duplicates.near) == ("keep", "off")
    given = ["input.paths=a.zip", "input.duplicates.near=off"]
    assert load_config("photos", overrides=given).input.duplicates.near == "off"
    grouped = load_config("photos", overrides=[given[0], "input.duplicates.near=group"])
    assert grouped.input.duplicates == DuplicatesConfig(near="group")
