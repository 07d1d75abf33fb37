"""Parquet files that hold the images themselves, as Hugging Face's data sets do."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.image_sources.config import InputConfig, UnitsConfig
from components.image_sources.locate import Locator
from components.image_sources.parquet import _NO_VALUE
from components.image_sources.pick import pick_one
from components.image_sources.sources import ImageSource
from tests import archives
from tests.components.test_image_sources import members, read_all, rejects
from trainer.errors import InputError

CONTENTS = [data for name, data in sorted(archives.classes(4).items())]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def structs(contents: Sequence[bytes | None] = CONTENTS) -> pa.Array:
    """A column as Hugging Face's `Image` feature."""
    return pa.array(
        [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(contents)], STRUCT
    )


def write(file: Path, *, classes: dict[str, list[str]] | None = None, **columns: Any) -> Path:
    """Writes a table with row groups of 5 rows, and Hugging Face's metadata for `classes`."""
    table = pa.table(columns)
    if classes is not None:
        features = {
            name: {"_type": "ClassLabel", "names": names} for name, names in classes.items()
        }
        text = json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})
        table = table.replace_schema_metadata({"huggingface": text})
    pq.write_table(table, file, row_group_size=5)
    return file


def labels(path: Path, **config: Any) -> list[str | None]:
    return [label for batch in read_all(paths=str(path), **config) for label in batch.labels]


def numbers() -> list[int]:
    return [row % 2 for row in range(len(CONTENTS))]


def test_a_data_set_of_hugging_face(tmp_path: Path) -> None:
    path = write(
        tmp_path / "test-00000-of-00001.parquet",
        classes={"label": ["cat", "dog"]},
        image=structs(),
        label=[-1, *numbers()[1:]],
    )
    batches = read_all(paths=str(path))
    assert [data for batch in batches for data in batch.data] == CONTENTS
    assert labels(path)[:4] == [None, "dog", "cat", "dog"]
    assert [name for batch in batches for name in batch.names][:2] == [
        "00000000/0.png",
        "00000001/1.png",
    ]
    assert {split for batch in batches for split in batch.splits} == {"test"}
    assert labels(path, labels={"names": ["Katze", "Hund"]})[1] == "Hund"
    assert set(labels(path, labels={"source": "none"})) == {None}
    origins = {example for batch in batches for example in batch.origins.examples["label"]}
    assert origins == {"the column 'label'"}


def test_row_groups_become_units(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", image=structs(), label=numbers())
    config = InputConfig(paths=(str(path),), units=UnitsConfig(members=5, batch=2))
    source = ImageSource(config)
    units = list(source.units())
    rows = len(CONTENTS)
    assert [(unit.start, unit.stop) for unit in units] == [(0, 5), (5, 10), (10, rows)]
    assert [data for unit in units for batch in source.read(unit) for data in batch.data] == (
        CONTENTS
    )
    assert max(len(batch) for unit in units for batch in source.read(unit)) == 2
    found = pick_one(config, str(path), "00000007/7.png", seconds=60.0)
    assert found is not None
    assert found.data == [CONTENTS[7]]
    assert found.labels == ["1"]


def test_plain_bytes_with_names_and_splits(tmp_path: Path) -> None:
    rows = len(CONTENTS)
    path = write(
        tmp_path / "a.parquet",
        JPG=pa.array(CONTENTS, pa.large_binary()),
        thumbnail=pa.array([b"x"] * rows, pa.binary()),
        cls=pa.array(["cat"] * rows).dictionary_encode(),
        name=[f"{row}.jpg" for row in range(rows)],
        part=["val", "nowhere", *[None] * (rows - 2)],
    )
    with pytest.raises(InputError, match=r"'JPG', 'thumbnail' hold bytes; .* parquet\.image"):
        read_all(paths=str(path))
    columns = {"image": "jpg", "label": "cls", "filename": "name", "split": "part"}
    batches = read_all(paths=str(path), parquet=columns)
    assert rejects(batches) == {"00000001/1.jpg": "bad_split"}
    assert len(members(batches)) == rows - 1
    assert {label for batch in batches for label in batch.labels} == {"cat"}
    splits = [split for batch in batches for split in batch.splits]
    assert splits == ["validation", *[None] * (rows - 2)]
    whole = read_all(paths=str(path), parquet=columns, splits={"source": "hash"})
    assert {split for batch in whole for split in batch.splits} == {None}


def test_every_row_is_an_image_or_a_reject(tmp_path: Path) -> None:
    images = pa.array(
        [
            None,
            {"bytes": None, "path": "elsewhere.png"},
            {"bytes": CONTENTS[0], "path": None},
            {"bytes": CONTENTS[1] + bytes(5000), "path": "b.png"},
            {"bytes": CONTENTS[2], "path": "c.png"},
        ],
        STRUCT,
    )
    path = write(tmp_path / "a.parquet", classes={"kind": ["x"]}, image=images, kind=[0] * 4 + [9])
    batches = read_all(paths=str(path), limits={"max_bytes": 5000})
    assert rejects(batches) == {
        "00000000": "bad_record",
        "00000001/elsewhere.png": "bad_record",
        "00000003/b.png": "too_large",
        "00000004/c.png": "bad_label",
    }
    assert members(batches) == {"00000002": (CONTENTS[0], "x", None)}
    lenient = read_all(paths=str(path), labels={"unreadable": "ignore"})
    assert "00000004/c.png" in members(lenient)


def test_columns_that_are_not_clear(tmp_path: Path) -> None:
    two = write(
        tmp_path / "two.parquet",
        classes={"fine": ["a", "b"], "coarse": ["c", "d"]},
        image=structs(),
        fine=numbers(),
        coarse=numbers(),
    )
    with pytest.raises(InputError, match=r"two\.parquet: columns 'fine', 'coarse' hold classes"):
        read_all(paths=str(two))
    assert labels(two, parquet={"label": "coarse"})[:2] == ["c", "d"]
    assert set(labels(two, labels={"unreadable": "ignore"})) == {None}
    with pytest.raises(InputError, match=r"no column 'x' among 'image', .*parquet\.label"):
        read_all(paths=str(two), parquet={"label": "x"})
    with pytest.raises(InputError, match=r"column 'fine' of parquet\.image holds int64"):
        read_all(paths=str(two), parquet={"image": "fine"})
    texts = write(tmp_path / "texts.parquet", url=["a", "b"])
    with pytest.raises(InputError, match=r"no column holds bytes, among 'url'"):
        read_all(paths=str(texts), format="parquet")


def test_metadata_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"image": structs(), "label": numbers()})
    for text in ("{", "[]", '{"info": []}', '{"info": {"features": {"label": 3}}}'):
        pq.write_table(table.replace_schema_metadata({"huggingface": text}), path)
        assert labels(path)[:2] == ["0", "1"]


def test_manifests_stay_manifests(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(CONTENTS[0])
    listed = write(tmp_path / "a.parquet", Path=["a.png"], thumbnail=pa.array([b"x"], pa.binary()))
    assert list(Locator(InputConfig(paths=(str(listed),))).sources()) == [(str(listed), "manifest")]
    assert len(members(read_all(paths=str(listed)))) == 1
    both = write(tmp_path / "b.parquet", path=["a.png"], image=structs(CONTENTS[:1]))
    assert list(Locator(InputConfig(paths=(str(both),))).sources()) == [(str(both), "parquet")]


def test_folder_of_parquet_files(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", image=structs())
    with pytest.raises(InputError, match=r"name them: .*/\*\.parquet"):
        read_all(paths=str(tmp_path))
    assert len(members(read_all(paths=f"{tmp_path}/*.parquet"))) == len(CONTENTS)


@pytest.mark.parametrize("damage", ["cut", "pages", "footer"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.parquet", image=structs(), label=numbers())
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "footer":
        content[-6:-4] = b"\xff\xff"
    else:
        content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    path.write_bytes(content)
    for chosen in ("auto", "parquet"):
        with pytest.raises(InputError, match=r"a\.parquet: not a readable") as caught:
            read_all(paths=str(path), format=chosen)
        assert "\n" not in str(caught.value)


def test_files_that_spark_read(tmp_path: Path) -> None:
    """The columns are those of Spark's source `binaryFile`."""
    rows = len(CONTENTS)
    folders = ["train/cat", "train/dog", "test/cat", "test/images"]
    places = [f"dbfs:/pets/{folders[row % 4]}/{row}.png" for row in range(rows)]
    path = write(
        tmp_path / "part-00000.snappy.parquet",
        path=places,
        modificationTime=pa.array([0] * rows, pa.timestamp("us")),
        length=[*map(len, CONTENTS)],
        content=pa.array([None, *CONTENTS[1:]], pa.binary()),
    )
    batches = read_all(paths=str(path))
    assert rejects(batches) == {f"00000000/{places[0]}": "bad_record"}
    found = members(batches)
    assert found[f"00000001/{places[1]}"] == (CONTENTS[1], "dog", "train")
    assert found[f"00000002/{places[2]}"] == (CONTENTS[2], "cat", "test")
    assert found[f"00000003/{places[3]}"] == (CONTENTS[3], None, "test")
    above = read_all(paths=str(path), labels={"level": 2}, splits={"source": "hash"})
    assert members(above)[f"00000001/{places[1]}"] == (CONTENTS[1], "train", None)
    assert "the folder of the image" in batches[0].origins.examples["label"]
    by_name = read_all(paths=str(path), labels={"pattern": r"(\d+)\.png"})
    assert members(by_name)[f"00000002/{places[2]}"] == (CONTENTS[2], "2", "test")
    assert "labels.pattern finds" in by_name[0].origins.examples["label"][0]


def test_tables_that_are_divided_by_labels(tmp_path: Path) -> None:
    """Spark's `partitionBy("label")` keeps the column in the names of the folders."""
    for folder, rows in (("label=a%20cat", 2), ("label=1", 1), (f"label={_NO_VALUE}", 1)):
        (tmp_path / folder).mkdir()
        write(
            tmp_path / folder / "part-0.parquet",
            path=[f"dbfs:/pets/{row}.png" for row in range(rows)],
            content=pa.array(CONTENTS[:rows], pa.binary()),
        )
    paths = f"{tmp_path}/**/*.parquet"
    assert sorted(map(str, labels(Path(paths)))) == ["1", "None", "a cat", "a cat"]
    named = labels(Path(paths), labels={"names": ["bird", "dog"]})
    assert sorted(map(str, named)) == ["None", "a cat", "a cat", "dog"]
    assert set(labels(Path(paths), labels={"source": "none"})) == {None}


def test_names_of_a_file_precede_those_of_a_model(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet", classes={"label": ["cat", "dog"]}, image=structs(), label=numbers()
    )
    config = InputConfig(paths=(str(path),))
    of_model = config.labels.with_names_of_model(("dog", "cat"))
    source = ImageSource(config.model_copy(update={"labels": of_model}))
    source = pickle.loads(pickle.dumps(source))
    found = [
        label for unit in source.units() for batch in source.read(unit) for label in batch.labels
    ]
    assert found[:2] == ["cat", "dog"]
    assert labels(path, labels={"names": ["dog", "cat"]})[:2] == ["dog", "cat"]
