"""Manifests as spreadsheets, notebooks and Windows programs write them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.sources import ImageSource
from tests import archives
from tests.components.test_image_sources import members, read_all, rejects
from trainer.errors import InputError

Labels = dict[str, tuple[str | None, str | None]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with `images/0.png` to `images/5.png`."""
    archives.write_folder(
        tmp_path, {f"images/{number}.png": archives.png(number) for number in range(6)}
    )
    return tmp_path


def found(folder: Path, name: str, content: str | bytes, **config: Any) -> Labels:
    """Label and split by file of what a manifest names."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    batches = read_all(paths=str(path), **config)
    assert rejects(batches) == {}
    assert fingerprint(InputConfig.model_validate({"paths": str(path), **config}))
    return {Path(name).name: (label, split) for name, (_, label, split) in members(batches).items()}


SPELLINGS = [
    ("a.csv", "path,label\nimages/0.png,cat\n"),
    ("a.CSV", "path,label\nimages/0.png,cat\n"),
    ("a.csv", "path, label\nimages/0.png, cat\n"),
    ("a.csv", '"path", "label"\n"images/0.png", "cat"\n'),
    ("a.csv", "Path,LABEL\r\nimages/0.png,cat\r\n"),
    ("a.csv", "\n\npath,label\nimages/0.png,cat\n\n"),
    ("a.csv", "\ufeffpath,label\nimages/0.png,cat\n"),
    ("a.csv", "path;label\nimages/0.png;cat\n"),
    ("a.csv", "path\tlabel\nimages/0.png\tcat\n"),
    ("a.tsv", "path\tlabel\nimages/0.png\tcat\n"),
    ("a.csv", "id,path,label,note\n1,images/0.png,cat,x\n"),
    ("a.csv", "path,label\n.\\images\\0.png,cat\n"),
    ("a.csv", "path,label\nimages\\0.png,cat\n"),
    ("a.csv", "path,label\n./images/0.png,cat\n"),
    ("a.csv", "path,label\r\nimages/0.png,cat".encode("utf-16")),
    ("a.csv.gz", gzip.compress(b"path,label\nimages/0.png,cat\n")),
    ("a.csv", gzip.compress(b"path,label\nimages/0.png,cat\n")),
    ("a.jsonl.gz", gzip.compress(b'{"path": "images/0.png", "label": "cat"}\n')),
    ("a.jsonl", '{"path": ".\\\\images\\\\0.png", "Label": "cat"}'),
]


@pytest.mark.parametrize(
    ("name", "content"),
    SPELLINGS,
    ids=[f"{number}-{name}" for number, (name, _) in enumerate(SPELLINGS)],
)
def test_one_row_in_many_spellings(images: Path, name: str, content: str | bytes) -> None:
    assert found(images, name, content) == {"0.png": ("cat", None)}


def test_absolute_paths_and_addresses_of_files(images: Path) -> None:
    content = f"path,label\n{images}/images/0.png,a\nfile://{images}/images/1.png,b\n"
    assert found(images, "a.csv", content) == {"0.png": ("a", None), "1.png": ("b", None)}


def test_a_name_with_a_backslash_is_found_as_it_is(images: Path) -> None:
    (images / "a\\b.png").write_bytes(archives.png(9))
    assert found(images, "a.csv", "path,label\na\\b.png,cat\n") == {"a\\b.png": ("cat", None)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("C:\\images\\0.png,cat", "missing"),
        ("https://x.org/0.png,cat", "missing"),
        ("images/none.png,cat", "missing"),
        ("images,cat", "device"),
        (",cat", "bad_record"),
    ],
)
def test_rows_that_name_no_file(images: Path, row: str, reason: str) -> None:
    (images / "a.csv").write_text(f"path,label\nimages/1.png,dog\n{row}\n")
    batches = read_all(paths=str(images / "a.csv"))
    assert len(members(batches)) == 1
    assert list(rejects(batches).values()) == [reason]


@pytest.mark.parametrize("start", ["C:\\images\\", "https://x.org/"])
def test_a_manifest_of_another_machine_is_refused(images: Path, start: str) -> None:
    (images / "a.csv").write_text(f"path,label\n{start}0.png,cat\n{start}1.png,dog\n")
    with pytest.raises(InputError, match="and the other paths are addresses or have a drive"):
        read_all(paths=str(images / "a.csv"))


def test_a_unit_of_addresses_does_not_stop_a_manifest_that_has_more(images: Path) -> None:
    rows = "https://x.org/0.png\nhttps://x.org/1.png\nimages/2.png\nimages/3.png\n"
    (images / "a.csv").write_text(f"path\n{rows}")
    batches = read_all(paths=str(images / "a.csv"), units={"members": 2})
    assert len(members(batches)) == 2
    assert sum(len(batch.rejects) for batch in batches) == 2


@pytest.mark.parametrize(
    "damage", [lambda packed: packed[:-12], lambda packed: packed[:-8] + bytes(4) + packed[-4:]]
)
def test_a_packed_manifest_that_is_cut_short_or_damaged(
    images: Path, damage: Callable[[bytes], bytes]
) -> None:
    for name, content in (("a.csv.gz", "path,label\n"), ("a.jsonl.gz", "")):
        content += '{"path": "images/0.png"}\n' if not content else "images/0.png,cat\n" * 9
        (images / name).write_bytes(damage(gzip.compress(content.encode())))
        with pytest.raises(InputError, match="copy it again"):
            read_all(paths=str(images / name))


@pytest.mark.parametrize(
    ("word", "split"),
    [("Test", "test"), (" val ", "validation"), ("test_set", "test"), ("val2017", "validation"),
     ("TRAIN", "train"), ("", None)],
)  # fmt: skip
def test_words_for_splits(images: Path, word: str, split: str | None) -> None:
    content = f"path,label,Split\nimages/0.png,cat,{word}\n"
    assert found(images, "a.csv", content) == {"0.png": ("cat", split)}


def test_a_word_that_is_no_split_is_a_reject(images: Path) -> None:
    (images / "a.csv").write_text("path,label,split\nimages/0.png,cat,holiday\n")
    assert list(rejects(read_all(paths=str(images / "a.csv"))).values()) == ["bad_split"]


def parquet(images: Path, column: Any, **config: Any) -> list[str | None]:
    """Labels of a Parquet manifest with this column of labels."""
    table = pa.table({"path": [f"images/{i}.png" for i in range(len(column))], "label": column})
    pq.write_table(table, images / "a.parquet")
    batches = read_all(paths=str(images / "a.parquet"), **config)
    return [label for batch in batches for label in batch.labels]


def test_columns_of_parquet(images: Path) -> None:
    assert parquet(images, pa.array([b"cat", None], pa.binary())) == ["cat", None]
    assert parquet(images, pa.array([1, None])) == ["1", None]
    assert parquet(images, pa.array([1.0, float("nan")])) == ["1", None]
    assert parquet(images, pa.array([True, False])) == ["true", "false"]
    assert parquet(images, pa.array(["cat", "cat"]).dictionary_encode()) == ["cat", "cat"]
    names = {"labels": {"names": ["cat", "dog"]}}
    assert parquet(images, pa.array([1, 0], pa.int8()), **names) == ["dog", "cat"]


def test_numbers_in_csv_are_those_of_parquet(images: Path) -> None:
    content = "path,label\nimages/0.png,1.0\nimages/1.png,\nimages/2.png,1\n"
    assert found(images, "a.csv", content) == {
        "0.png": ("1", None),
        "1.png": (None, None),
        "2.png": ("1", None),
    }
    content = "path,label\nimages/0.png,1.0\n"
    assert found(images, "a.csv", content, labels={"names": ["a", "b"]}) == {"0.png": ("b", None)}


@pytest.mark.parametrize("label", [["cat"] * 2, {"name": "cat"}, []])
def test_lists_and_objects_are_no_labels(images: Path, label: Any) -> None:
    line = json.dumps({"path": "images/0.png", "label": label})
    (images / "a.jsonl").write_text(line)
    with pytest.raises(InputError, match=r"a\.jsonl: row 1, 'label': a (list|dict) is no label"):
        read_all(paths=str(images / "a.jsonl"))
    table = pa.table({"path": ["images/0.png"], "label": [label or ["x", "y"]]})
    pq.write_table(table, images / "a.parquet")
    with pytest.raises(InputError, match=r"row 1, 'label': a (list|dict) is no label"):
        read_all(paths=str(images / "a.parquet"))


def test_a_column_of_structs_is_no_column_of_paths(images: Path) -> None:
    table = pa.table({"path": [{"address": "x", "path": "0.png"}], "label": ["cat"]})
    pq.write_table(table, images / "a.parquet")
    with pytest.raises(InputError, match="row 1, 'path': a dict is no text"):
        read_all(paths=str(images / "a.parquet"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("option", ["path", "label", "split"])
def test_a_configured_column_that_is_missing(images: Path, suffix: str, option: str) -> None:
    path = images / f"a.{suffix}"
    row = {"path": "images/0.png", "label": "cat", "split": "train"}
    if suffix == "csv":
        path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    elif suffix == "jsonl":
        path.write_text(json.dumps(row))
    else:
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)
    expected = f"no column 'typo' among 'path', 'label', 'split'; name it with manifest.{option}"
    with pytest.raises(InputError, match=expected):
        read_all(paths=str(path), manifest={option: "typo"})


def test_a_table_of_pixels_is_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("label," + ",".join(f"pixel{i}" for i in range(784)) + "\n3" + ",0" * 784)
    with pytest.raises(InputError, match=r"train\.csv: no column 'path', but 'pixel0': a table of"):
        read_all(paths=str(path))
    path.write_text(",".join(f"c{i}" for i in range(784)) + "\n" + ",".join("0" * 784))
    with pytest.raises(InputError, match=r"'c19' and 764 more; name it with manifest\.path"):
        read_all(paths=str(path))


def test_numbers_without_a_name_are_rejects(images: Path) -> None:
    (images / "a.csv").write_text("path,label\nimages/0.png,7\nimages/1.png,1\n")
    batches = read_all(paths=str(images / "a.csv"), labels={"names": ["cat", "dog"]})
    assert list(rejects(batches).values()) == ["bad_label"]
    assert [row[1] for row in members(batches).values()] == ["dog"]
    labels = {"names": ["cat", "dog"], "unreadable": "ignore"}
    batches = read_all(paths=str(images / "a.csv"), labels=labels)
    assert [row[1] for row in members(batches).values()] == [None, "dog"]


def test_rows_of_delimiters_alone_are_no_rows(images: Path) -> None:
    (images / "m.csv").write_text("path,label\nimages/1.png,cat\n,\n , \n,cat\n")
    batches = read_all(paths=str(images / "m.csv"))
    assert sum(map(len, batches)) == 1
    assert [reject.detail for batch in batches for reject in batch.rejects] == [
        "a row without a path"
    ]


def test_an_empty_manifest_is_named(images: Path) -> None:
    for content in ("", "\n\n", "path,label\n"):
        (images / "a.csv").write_text(content)
        with pytest.raises(InputError, match="no images"):
            read_all(paths=str(images / "a.csv"))
    schema = pa.schema([("path", pa.string()), ("label", pa.string())])
    pq.ParquetWriter(images / "a.parquet", schema).close()
    with pytest.raises(InputError, match="no images"):
        read_all(paths=str(images / "a.parquet"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('images/0.png,cat\n"images/1.png,cat\nimages/2.png,dog\n', "row 2 goes on to"),
        ('"images/1.png,cat\nimages/2.png,dog\n"images/3.png,dog\n', "row 1, 'images/1"),
        ('images/1.png,"cat\nimages/2.png,dog\nimages/3.png,"dog\n', "row 1, 'cat', goes on"),
        ("images/0.png,cat\nimages/1.png,cat,x\n", "row 2 has 3 values and the header 2"),
        ("images/0.png,cat\nimages/1.png\0,cat\n", "row 2 holds NUL bytes"),
        ("images/0.png,cat\n" + "\0" * 99, "row 2 holds NUL bytes"),
    ],
)
def test_a_row_that_swallows_others_is_refused(images: Path, content: str, message: str) -> None:
    (images / "a.csv").write_text("path,label\n" + content)
    with pytest.raises(InputError) as refused:
        read_all(paths=str(images / "a.csv"))
    assert f"a.csv: {message}" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_list_of_paths_with_a_stray_quotation_mark_is_refused(images: Path) -> None:
    (images / "a.csv").write_text('path\n"images/1.png\nimages/2.png\n"images/3.png\n')
    with pytest.raises(InputError, match=r"row 1, 'images/1\.png', goes on over other rows"):
        read_all(paths=str(images / "a.csv"))


def test_quoted_cells_may_have_line_breaks(images: Path) -> None:
    rows = 'note,path,label\n"a,\nb",images/0.png,"ca\nt"\n"c"",",images/1.png,dog,\n'
    assert found(images, "a.csv", rows) == {"0.png": ("ca t", None), "1.png": ("dog", None)}


def test_names_of_files_may_have_another_unicode_form(images: Path) -> None:
    (images / "images" / "0.png").rename(images / "images" / "cafe\u0301.png")
    (images / "images" / "1.png").rename(images / "images" / "th\u00e9.png")
    rows = "path,label\nimages/caf\u00e9.png,cat\nimages/the\u0301.png,dog\n"
    assert found(images, "a.csv", rows) == {
        "cafe\u0301.png": ("cat", None),
        "th\u00e9.png": ("dog", None),
    }


def test_a_unit_changes_with_the_files_that_it_names(images: Path) -> None:
    """Otherwise a bulk job would keep the rows of images that are no longer there."""
    path = images / "a.csv"
    path.write_text("path,label\nimages/0.png,cat\n,\nimages/1.png,dog\n")
    source = ImageSource(InputConfig(paths=(str(path),)))
    (unit,) = source.units()
    before = source.version(unit)
    assert source.version(unit) == before
    (images / "images/1.png").write_bytes(archives.png(9) + b"more")
    assert source.version(unit) != before
    (images / "images/1.png").unlink()
    assert source.version(unit) != before


def test_names_without_folder_and_suffix(images: Path) -> None:
    """Many competitions give such tables: `id,breed`, with the images in `train/`."""
    options = {"path": "id", "label": "breed", "pattern": "images/{}.png"}
    expected = {"0.png": ("pug", None), "1.png": ("beagle", None)}
    assert found(images, "a.csv", "id,breed\n0,pug\n1,beagle\n", manifest=options) == expected
    rows = '{"id": 0, "breed": "pug"}\n{"id": 1, "breed": "beagle"}\n'
    assert found(images, "a.jsonl", rows, manifest=options) == expected
    batches = read_all(paths=str(images / "a.csv"), manifest={**options, "pattern": "{}"})
    (reject, _) = (reject for batch in batches for reject in batch.rejects)
    assert reject.detail.endswith(
        "no such file; if it has a suffix, set manifest.pattern, as train/{}.jpg"
    )
    with pytest.raises(ValueError, match=r"has no \{\}, the place of the column's value"):
        InputConfig.model_validate({"paths": "a.csv", "manifest": {"pattern": "train/*.jpg"}})
