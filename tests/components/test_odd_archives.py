"""Tests of archives that fuzzing found: unusual, but valid, or damaged in an unusual place."""

import errno
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.image_sources.batch import MemberBatch
from components.image_sources.config import MIB, InputConfig
from components.image_sources.sources import ImageSource
from components.image_sources.webdataset import WebDatasetReader
from tests import archives
from trainer.errors import InputError
from trainer.storage import listing
from trainer.storage.failures import StorageError


def read(path: Path, **config: object) -> list[MemberBatch]:
    source = ImageSource(InputConfig.model_validate({"paths": str(path), **config}))
    return [batch for unit in list(source.units()) for batch in source.read(unit)]


def names(batches: list[MemberBatch]) -> list[str]:
    return [name for batch in batches for name in batch.names]


def zip64(count: int, fields: bytes = b"") -> bytes:
    """A zip with a zip64 end record, which may have fields of other tools."""
    plain = archives.zip_bytes({f"a/{i}.png": archives.png(i) for i in range(count)})
    entries, length, start = struct.unpack("<10xHLL2x", plain[-22:])
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, length, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + length, 1)
    return plain[:-22] + end + fields + locator + plain[-22:]


def test_a_zip64_end_record_is_found_behind_what_precedes_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for content in (zip64(3), b"#!/bin/sh\n" + zip64(3), zip64(3, b"fields of a tool")):
        path.write_bytes(content)
        assert names(read(path)) == ["a/0.png", "a/1.png", "a/2.png"]
    # The second locator states where the record of the first zip lies.
    path.write_bytes(zip64(3) + zip64(3))
    with pytest.raises(InputError, match="several zips in one file"):
        read(path)


def test_a_name_repeats_in_another_encoding_or_with_another_slash(tmp_path: Path) -> None:
    shown = ["a/é.png", "b/1.png", "a/é.png#2", "b/1.png#2", "a/é.png#3", "b/1.png#3"]
    stored = ["a/_.png", "b/1.png", "a/é.png", "b\\1.png", "a/é.png", "b/1.png"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed, name in enumerate(stored):
            archive.writestr(name, archives.png(seed))
    # DOS wrote é as 0x82.
    content = (tmp_path / "a.zip").read_bytes().replace(b"a/_.png", b"a/\x82.png")
    (tmp_path / "a.zip").write_bytes(content)
    for members in (1, 2, 8):
        batches = read(tmp_path / "a.zip", units={"members": members})
        assert names(batches) == shown
        assert [data for batch in batches for data in batch.data] == [
            archives.png(seed) for seed in range(len(stored))
        ]


def test_names_that_only_info_zip_tells_apart_are_no_repeated_names(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed, name in enumerate(("a/é.png", "a/ö.png")):
            info = zipfile.ZipInfo("a/_.png")
            real = struct.pack("<BL", 1, zlib.crc32(b"a/_.png")) + name.encode()
            info.extra = b"up" + struct.pack("<H", len(real)) + real
            archive.writestr(info, archives.png(seed))
    assert names(read(path, units={"members": 1})) == ["a/é.png", "a/ö.png"]


@pytest.mark.parametrize("more", [0, 17 * MIB])
def test_a_label_behind_a_large_image_is_beside_it(tmp_path: Path, more: int) -> None:
    path, image = tmp_path / "a.tar", archives.png(0) + bytes(more)
    beside = {"0.jpg": image, "0.mp4": bytes(MIB), "0.json": b'{"label": "cat"}', "1.cls": b"dog"}
    path.write_bytes(archives.tar_bytes({**beside, "1.png": image}))
    batches = read(path, units={"batch": 1})
    assert [label for batch in batches for label in batch.labels] == ["cat", "dog"]


def test_samples_of_any_number_of_files_are_read_in_parts(tmp_path: Path) -> None:
    labels = {f"0.{i}.cls": b"cat" for i in range(2500)}
    path = tmp_path / "a.tar"
    path.write_bytes(archives.tar_bytes({"0.png": archives.png(0), **labels}))
    reader = WebDatasetReader(InputConfig.model_validate({"paths": str(path)}))
    sizes = [len(sample) for _, sample in reader._samples(str(path))]
    assert sum(sizes) == 2501
    assert max(sizes) < 2100


def test_a_damaged_parquet_manifest_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"path": ["1.png", "2.png"], "label": ["cat", "dog"]}), path)
    content, messages = path.read_bytes(), []
    for at in range(0, len(content), 16):
        path.write_bytes(content[:at] + bytes(16) + content[at + 16 :])
        try:
            read(path)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert not any("\n" in message for message in messages)
    assert all(message.endswith("; copy it again") for message in messages)


def test_a_folder_that_cannot_be_entered_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives.write_folder(tmp_path, {"cat/1.png": archives.png(0)})
    known = os.stat

    def refused(path: str, **options: bool) -> os.stat_result:
        if path.endswith("/cat"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return known(path, **options)

    monkeypatch.setattr(os, "stat", refused)
    with pytest.raises(StorageError, match="cat: no permission to read it"):
        list(listing.walk(str(tmp_path)))
