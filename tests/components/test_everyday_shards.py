"""Shards as other tools write them: without a suffix, packed, with masks and labels of any key."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from components.image_sources.config import InputConfig
from components.image_sources.example_proto import example_class
from components.image_sources.locate import Locator
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
