"""Shards as other tools write them: without a suffix, packed, with masks and labels of any key."""

import contextlib
import gzip
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.image_example_gen.account import Account
from components.image_example_gen.account_checks import check_account
from components.image_example_gen.ingest import ingest
from components.image_example_gen.input_overview import OVERVIEW
from components.image_example_gen.layout_hints import several_notes
from components.image_sources.config import InputConfig
from components.image_sources.example_proto import example_class
from components.image_sources.folder import unpack_names
from components.image_sources.idx import IdxReader
from components.image_sources.locate import Locator
from components.image_sources.manifest import ManifestReader
from components.image_sources.named_counts import NamedCounts
from components.image_sources.origins import SEVERAL, UNREAD
from tests import archives
from tests.components.test_image_sources import members, read_all
from trainer.errors import InputError


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("name", ["train-00000-of-00003", "train-00000-of-00003.gz"])
def test_packed_records_of_any_name(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    record = archives.example(image__encoded=archives.png(), image__class__label=3)
    (tmp_path / name).write_bytes(compress(archives.tfrecord_bytes([record] * 50)))
    rows = members(read_all(paths=str(tmp_path / name)))
    assert [row[1:] for row in rows.values()] == [("3", "train")] * 50


def test_a_packed_file_of_something_else_is_no_file_of_records(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(archives.tar_bytes({"a/1.png": archives.png()})))
    locator = Locator(InputConfig(paths=(str(tmp_path / "a.gz"),)))
    assert [kind for _, kind in locator.sources()] == ["tar"]


@pytest.mark.parametrize("name", ["train-00000-of-00003", "val-00-of-10.gz"])
def test_a_folder_of_shards_without_a_suffix_says_how_to_name_them(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"a folder of archives .* name them: .*/\*-of-\*$"):
        read_all(paths=str(tmp_path))


def test_a_folder_may_be_called_as_a_shard(tmp_path: Path) -> None:
    (tmp_path / "part-00-of-02" / "cat").mkdir(parents=True)
    (tmp_path / "part-00-of-02" / "cat" / "1.png").write_bytes(archives.png())
    assert list(members(read_all(paths=str(tmp_path)))) == ["part-00-of-02/cat/1.png"]


def test_raw_pixels_in_records_say_what_to_write_instead(tmp_path: Path) -> None:
    message = example_class()()
    message.features.feature["image/encoded"].float_list.value.extend([0.5] * 9)
    records = archives.tfrecord_bytes([message.SerializeToString()])
    (tmp_path / "a.tfrecord").write_bytes(records)
    details = [each.detail for batch in read_all(paths=str(tmp_path / "a.tfrecord"))
               for each in batch.rejects]  # fmt: skip
    assert details == [
        "9 numbers under 'image/encoded', no image file; if they are pixels, encode them as PNG"
    ]


def shard(tmp_path: Path, files: dict[str, bytes]) -> str:
    (tmp_path / "s.tar").write_bytes(archives.tar_bytes(files))
    return str(tmp_path / "s.tar")


def masked(tmp_path: Path) -> str:
    """A shard with a mask beside each image."""
    files: dict[str, bytes] = {}
    for at in range(4):
        files |= {f"{at}.png": archives.png(at), f"{at}.seg.png": archives.png(9 - at)}
        files[f"{at}.cls"] = b"cat" if at % 2 else b"dog"
    return shard(tmp_path, files)


def test_the_suffix_of_the_images_leaves_masks_out(tmp_path: Path) -> None:
    batches = read_all(paths=masked(tmp_path), webdataset={"image": ".PNG"})
    assert [(name, row[1]) for name, row in members(batches).items()] == [
        ("0.png", "dog"),
        ("1.png", "cat"),
        ("2.png", "dog"),
        ("3.png", "cat"),
    ]
    assert sum(batch.ignored.counts["side_file"] for batch in batches) == 8
    assert sum(batch.members for batch in batches) == 12


def test_a_suffix_that_no_image_has(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"suffix 'jpg' of webdataset\.image; .* 'png', 'seg.png'"):
        read_all(paths=masked(tmp_path), webdataset={"image": "jpg"})


@pytest.mark.parametrize("folder", ["", "part.1/"])
def test_the_key_of_the_label_in_json_files(tmp_path: Path, folder: str) -> None:
    beside = b'{"category": 1, "label": 5}'
    path = shard(tmp_path, {f"{folder}1.png": archives.png(), f"{folder}1.json": beside,
                            f"{folder}1.cls": b"7"})  # fmt: skip
    rows = members(read_all(paths=path, webdataset={"label": "category"}))
    assert [row[1] for row in rows.values()] == ["1"]
    with pytest.raises(InputError, match=r"key 'kind' of webdataset\.label; they have 'category'"):
        read_all(paths=path, webdataset={"label": "kind"})


def test_a_key_of_json_files_where_there_is_none(tmp_path: Path) -> None:
    path = shard(tmp_path, {"1.png": archives.png(), "1.cls": b"7"})
    with pytest.raises(InputError, match=r"key 'kind' of webdataset\.label; there are none$"):
        read_all(paths=path, webdataset={"label": "kind"})


def records(tmp_path: Path, **features: bytes | int) -> str:
    record = archives.example(image__encoded=archives.png(), **features)
    (tmp_path / "a.tfrecord").write_bytes(archives.tfrecord_bytes([record]))
    return str(tmp_path / "a.tfrecord")


def manifest(tmp_path: Path) -> str:
    (tmp_path / "1.png").write_bytes(archives.png())
    (tmp_path / "m.csv").write_text("path,klasse\n1.png,cat\n", encoding="utf-8")
    return str(tmp_path / "m.csv")


def table(tmp_path: Path, columns: dict[str, Any]) -> str:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    return str(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda folder: shard(folder, {"1.png": archives.png(), "1.json": b'{"category": "a"}'}),
            "no key 'label', 'class', 'cls', 'class_name' among 'category' of the .json files; name"
            " it with webdataset.label",
        ),
        (
            lambda folder: records(folder, label=3),
            "no feature 'image/class/text' or 'image/class/label' among 'image/encoded', 'label';"
            " name it with tfrecord.label or tfrecord.label_text",
        ),
        (manifest, "no column 'label' among 'path', 'klasse'; name it with manifest.label"),
        (
            lambda folder: table(folder, {"img": [archives.png()], "labels": [3]}),
            "no column 'label' among 'img', 'labels'; name it with parquet.label",
        ),
    ],
)
def test_what_may_hold_the_labels_is_named(
    tmp_path: Path, write: Callable[[Path], str], message: str
) -> None:
    path = write(tmp_path)
    (batch,) = read_all(paths=path)
    assert batch.origins.counts[UNREAD] == 1
    assert batch.origins.examples[UNREAD] == [message]
    (batch,) = read_all(paths=path, labels={"source": "none"})
    assert not batch.origins.counts[UNREAD]


def test_images_that_are_to_have_no_label_need_no_column(tmp_path: Path) -> None:
    images = {"1.png": archives.png(), "1.json": b'{"width": 1}'}
    (tmp_path / "unlabelled-0.tar").write_bytes(archives.tar_bytes(images))
    record = archives.example(image__encoded=archives.png(), width=3)
    (tmp_path / "unlabelled-1.tfrecord").write_bytes(archives.tfrecord_bytes([record]))
    (tmp_path / "1.png").write_bytes(archives.png())
    (tmp_path / "m.csv").write_text("path,split,w\n1.png,unlabelled,3\n", encoding="utf-8")
    for name in ("unlabelled-0.tar", "unlabelled-1.tfrecord", "m.csv"):
        (batch,) = read_all(paths=f"{tmp_path}/{name}")
        assert batch.splits == ["unlabelled"]
        assert not batch.origins.counts[UNREAD]


def test_images_alone_name_nothing_that_may_hold_labels(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"path\n{tmp_path}/1.png\n", encoding="utf-8")
    (tmp_path / "1.png").write_bytes(archives.png())
    for path in (
        table(tmp_path, {"img": [archives.png()]}),
        records(tmp_path),
        f"{tmp_path}/m.csv",
    ):
        (batch,) = read_all(paths=path)
        assert len(batch) == 1
        assert not batch.origins.counts[UNREAD]


def test_what_is_said_of_columns_is_no_part_of_a_unit(tmp_path: Path) -> None:
    """Finished units of a bulk job would otherwise be done again by a version with other texts."""
    reader = ManifestReader(InputConfig(paths=(manifest(tmp_path),)))
    (unit,) = reader.plan(f"{tmp_path}/m.csv")
    assert unit.unread
    assert unpack_names(unit.extra) == ["1.png", "", "", ""]
    assert unit.place == replace(unit, unread="").place


def test_a_bulk_job_needs_no_file_of_labels(tmp_path: Path) -> None:
    (tmp_path / "new-images-idx3-ubyte").write_bytes(
        bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 3) + bytes(range(18))
    )
    path = str(tmp_path / "new-images-idx3-ubyte")
    with pytest.raises(InputError, match=r"no label file .*; add it, or set labels\.source: none"):
        read_all(paths=path)
    rows = members(read_all(paths=path, labels={"unreadable": "ignore"}))
    assert [row[1] for row in rows.values()] == [None, None]

    # Its units are done again once there is one.
    reader = IdxReader(
        InputConfig.model_validate({"paths": path, "labels": {"unreadable": "ignore"}})
    )
    (unit,) = reader.plan(path)
    before = reader.version(unit)
    assert before == reader.version(unit)
    labels = tmp_path / "new-labels-idx1-ubyte"
    labels.write_bytes(b"\0\0\x08\1" + struct.pack(">I", 2) + b"\1\2")
    assert before != (with_labels := reader.version(unit))
    labels.write_bytes(b"\0\0\x08\1" + struct.pack(">I", 2) + b"\1\3")
    os.utime(labels, ns=(1, 1))
    assert with_labels != reader.version(unit)


def noted(caplog: pytest.LogCaptureFixture, tmp_path: Path, path: str, **options: Any) -> list[str]:
    """The warnings of an ingest."""
    caplog.set_level("INFO")
    settings = {"paths": path, "labels": {"min_images": 1}, "splits": {"test": 0.5}, **options}
    with contextlib.suppress(InputError):
        ingest(
            InputConfig.model_validate(settings), str(tmp_path / "out"), beam.Pipeline, processes=0
        )
    (found,) = [vars(record)[OVERVIEW] for record in caplog.records if hasattr(record, OVERVIEW)]
    return list(found.warnings)


def test_several_images_of_a_sample_are_named(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    first = noted(caplog, tmp_path, masked(tmp_path))
    assert first[0].startswith(
        "4 samples hold several images, such as '0.png' and '0.seg.png', which all count"
    )
    assert first[0].endswith("such as webdataset.image: png")
    assert not any("ignored by name" in line for line in first)


@pytest.mark.parametrize("mask", ["seg", "mask"])
def test_the_suffix_that_is_proposed_is_not_that_of_the_masks(mask: str) -> None:
    origins = NamedCounts()
    names = sorted(("it's 1.png", f"it's 1.{mask}.png"))
    origins.add(SEVERAL, " and ".join(map(repr, names)).replace('"', "'"))
    assert next(several_notes(origins)).endswith("such as webdataset.image: png")


def test_a_sample_without_an_image_of_the_suffix_is_named(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    files: dict[str, bytes] = {}
    for at in range(4):
        suffix = "jpeg" if at == 3 else "jpg"
        files |= {f"{at}.{suffix}": archives.png(at), f"{at}.seg.png": archives.png(9 - at)}
        files[f"{at}.cls"] = b"cat" if at % 2 else b"dog"
    lines = noted(caplog, tmp_path, shard(tmp_path, files), webdataset={"image": "jpg"})
    assert lines[0] == (
        "1 sample was left out, such as 3.jpeg: none of its files has the suffix of"
        " webdataset.image, jpg"
    )


def test_suffixes_and_keys_in_messages_are_few(tmp_path: Path) -> None:
    files = {f"1.{at:03d}.png": archives.png() for at in range(40)} | {"1.cls": b"a"}
    with pytest.raises(InputError) as caught:
        read_all(paths=shard(tmp_path, files), webdataset={"image": "jpg"})
    assert str(caught.value).count(".png'") == 12
    assert str(caught.value).endswith(".png'")


def test_numbers_beside_a_class_of_the_rest_are_no_mistake(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    files: dict[str, bytes] = {}
    for at in range(22):
        name = b"background" if at % 11 == 10 else b"%d" % (at % 11)
        files |= {f"{at}.png": archives.png(at), f"{at}.cls": name}
    lines = noted(caplog, tmp_path, shard(tmp_path, files))
    assert not any("by a number" in line for line in lines)


def test_numbers_beside_names_are_named(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for at, name in enumerate([b"cat", b"0", b"dog", b"1"] * 2):
        files |= {f"{at}.png": archives.png(at), f"{at}.cls": name}
    assert noted(caplog, tmp_path, shard(tmp_path, files))[0] == (
        "2 of 4 classes are called by a number ('0', '1'), others by a name ('cat', 'dog'): if a"
        " number stands for a name, list the names in the order of their numbers, from 0, as"
        " labels.names"
    )


def test_a_table_of_paths_says_that_the_images_are_not_in_it(tmp_path: Path) -> None:
    fields = [("bytes", pa.binary()), ("path", pa.string())]
    rows = [{"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}]
    path = table(tmp_path, {"image": pa.array(rows, pa.struct(fields))})
    details = [each.detail for batch in read_all(paths=path) for each in batch.rejects]
    assert details[0].startswith("no bytes under 'image', only a path: save the data set with its")
    assert details[1] == "no bytes under 'image'"


def test_a_folder_above_parquet_files_says_how_to_name_them() -> None:
    account = Account()
    account.ignored.add("side_file", "data/train-00000-of-00001.parquet")
    config = InputConfig(paths=("hf",))
    with pytest.raises(InputError, match=r"no images; .* name them: hf/\*\*/\*\.parquet$"):
        check_account(account, config)
