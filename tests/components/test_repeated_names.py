"""Tests of members that share a name, as `tar -r` and `tar -u` leave them in an archive."""

import gzip
import io
import itertools
import os
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from components.image_example_gen.account import Account
from components.image_example_gen.input_overview import describe_input
from components.image_sources.config import InputConfig
from components.image_sources.naming import printable
from components.image_sources.origins import REPEATED
from components.image_sources.pick import pick_members
from components.image_sources.repeated_names import RepeatedNames
from components.image_sources.sources import ImageSource
from components.image_sources.tar_index import TarIndex
from tests import archives

NAMES = ["a/0.png", "b/1.png", "a/2.png", "b/1.png", "a/0.png", "b/1.png", "a/3.png", "b/1.png"]
EXPECTED = [
    *("a/0.png", "b/1.png", "a/2.png", "b/1.png#2"),
    *("a/0.png#2", "b/1.png#3", "a/3.png", "b/1.png#4"),
]
IMAGES = [archives.png(seed) for seed in range(len(NAMES))]


def write(path: Path) -> None:
    """Writes an archive in which names repeat, as appending does."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, data in zip(NAMES, IMAGES, strict=True):
                packed.writestr(name, data)
        return
    parts = [
        archives.tar_bytes({name: data}, tarfile.PAX_FORMAT)
        for name, data in zip(NAMES, IMAGES, strict=True)
    ]
    path.write_bytes(b"".join(parts))
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(b"".join(parts)))


@pytest.mark.parametrize("form", ["a.zip", "a.tar", "a.tar.gz", "webdataset"])
def test_every_member_of_a_repeated_name_has_a_key(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("a.tar" if form == "webdataset" else form)
    write(path)
    config = InputConfig.model_validate(
        {
            "paths": str(path),
            "format": form if form == "webdataset" else "auto",
            "units": {"members": 3, "batch": 2},
            "labels": {"min_images": 1},
            "limits": {"max_tar_padding": 1 << 20},
        }
    )
    for _ in range(2):  # the second time with the index of a tar
        source = ImageSource(config, TarIndex(str(tmp_path / "index")))
        units = list(source.units())
        assert len(units) == (3 if form in ("a.zip", "a.tar") else 1)
        batches = [batch for unit in units for batch in source.read(unit)]
        found = [pair for each in batches for pair in zip(each.keys, each.data, strict=True)]
        expected = [f"{path}/{name}" for name in EXPECTED]
        assert found == list(zip(expected, IMAGES, strict=True))
    account = Account()
    for batch in batches:
        account.origins.update(batch.origins)
    (warning,) = describe_input(account, config).warnings
    assert warning.startswith("4 images with the name of an earlier one of the same archive (a/0.")
    picked = pick_members(config, {str(path): {"b/1.png", "b/1.png#3", "a/0.png#2"}})
    places = {name: IMAGES.index(data) for (_, name), data in picked.items()}
    assert places == {"b/1.png": 1, "b/1.png#3": 5, "a/0.png#2": 4}
    if form != "webdataset":
        assert len({source.version(unit) for unit in units}) == len(units)


def test_rows_with_the_same_file_name_are_no_repeated_names(tmp_path: Path) -> None:
    rows = [archives.example(**{"image/encoded": data, "image/filename": b"cat.png"})
            for data in IMAGES]  # fmt: skip
    (tmp_path / "a.tfrecord").write_bytes(archives.tfrecord_bytes(rows))
    source = ImageSource(InputConfig.model_validate({"paths": str(tmp_path / "a.tfrecord")}))
    batches = [batch for unit in source.units() for batch in source.read(unit)]
    assert [name for batch in batches for name in batch.names][:2] == [
        "00000000/cat.png",
        "00000001/cat.png",
    ]
    assert not any(batch.origins.counts[REPEATED] for batch in batches)


def test_files_whose_names_are_not_utf8_have_keys_and_pictures(tmp_path: Path) -> None:
    names = [b"a/1.png", b"a/\xfc.png", b"a/\xfd.png", b"\xfc\xfc/\xfc.png"]
    for name, data in zip(names, IMAGES, strict=False):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(data)
    config = InputConfig.model_validate({"paths": str(tmp_path), "units": {"members": 2}})
    source = ImageSource(config)
    batches = [batch for unit in source.units() for batch in source.read(unit)]
    keys = [printable(key) for batch in batches for key in batch.keys]
    shown = ["a/1.png", "a/\ufffd.png", "a/\ufffd.png#2", "\ufffd\ufffd/\ufffd.png"]
    assert keys == [f"{tmp_path}/{name}" for name in shown]
    picked = pick_members(config, {str(tmp_path): {*shown, "b/\ufffd.png"}})
    assert picked == {(str(tmp_path), n): d for n, d in zip(shown, IMAGES, strict=False)}


def test_names_of_many_parts_are_counted() -> None:
    names = RepeatedNames()
    parts = [[f"{place % 700}.png" for place in range(at, at + 100)] for at in range(0, 2000, 100)]
    for at, part in enumerate(parts):
        earlier = list(itertools.chain(*parts[:at]))
        expected = {name: earlier.count(name) for name in part if name in earlier}
        assert names.add(part) == expected


@pytest.mark.parametrize("form", ["a.zip", "a.tar", "webdataset"])
def test_rejects_among_repeated_names_are_counted_in_their_place(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("a.zip" if form == "a.zip" else "a.tar")
    images = [archives.png(seed) for seed in range(3)]
    # The first member is a link.
    if form == "a.zip":
        with zipfile.ZipFile(path, "w") as packed, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            link = zipfile.ZipInfo("a/1.png")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(link, "elsewhere")
            for data in images:
                packed.writestr("a/1.png", data)
                packed.writestr("a/1.txt", "a caption")
    else:
        with tarfile.open(path, "w") as packed:
            for kind, data in [(tarfile.SYMTYPE, b""), *((tarfile.REGTYPE, i) for i in images)]:
                info = tarfile.TarInfo("a/1.png")
                info.type, info.size = kind, len(data)
                packed.addfile(info, io.BytesIO(data))
    expected = {f"a/1.png#{i + 2}": data for i, data in enumerate(images)}
    for members, batch in ((8, 8), (1, 1), (3, 2)):
        config = InputConfig.model_validate(
            {
                "paths": str(path),
                "format": form if form == "webdataset" else "auto",
                "units": {"members": members, "batch": batch},
            }
        )
        source = ImageSource(config)
        batches = [batch for unit in list(source.units()) for batch in source.read(unit)]
        found = [pair for each in batches for pair in zip(each.names, each.data, strict=True)]
        assert dict(found) == expected
        assert [each.member for batch in batches for each in batch.rejects] == ["a/1.png"]
        assert sum(batch.origins.counts[REPEATED] for batch in batches) == 3
        assert sum(batch.ignored.counts["side_file"] for batch in batches) == 3 * (form == "a.zip")
    picked = pick_members(config, {str(path): set(expected)})
    assert {name: data for (_, name), data in picked.items()} == expected
