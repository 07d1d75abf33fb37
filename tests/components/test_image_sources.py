"""Each source gives the members, labels, splits and rejects that its archive holds."""

import errno
import gzip
import io
import itertools
import json
import math
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.image_checks import ImageFaultError, ImageHeader, check
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.config import (
    RATIO_FLOOR,
    InputConfig,
    LimitsConfig,
    UnitsConfig,
    absolute_path,
)
from components.image_sources.ignored import ignored_reason, is_side_file
from components.image_sources.named_counts import NamedCounts
from components.image_sources.naming import (
    PathNaming,
    clean_label,
    looks_like_split,
    split_of_file,
)
from components.image_sources.sources import ImageSource
from tests import archives
from trainer.errors import InputError
from trainer.storage import listing

SMALL_UNITS = {"members": 4, "batch": 3}
FORMATS = ("tree", "a.zip", "a.tar", "a.tar.gz", "a.tar.zst")


def read_all(**config: object) -> list[MemberBatch]:
    source = ImageSource(InputConfig.model_validate(config))
    units = list(source.units())
    assert [unit.index for unit in units] == list(range(len(units)))
    return [batch for unit in units for batch in source.read(unit)]


def members(batches: list[MemberBatch]) -> dict[str, tuple[bytes, str | None, str | None]]:
    found = {}
    for batch in batches:
        columns = (batch.names, batch.data, batch.labels, batch.splits)
        for name, data, label, split in zip(*columns, strict=True):
            assert name not in found
            found[name] = (bytes(data), label, split)
    return found


def rejects(batches: list[MemberBatch]) -> dict[str, str]:
    return {reject.member: reject.reason for batch in batches for reject in batch.rejects}


@pytest.mark.parametrize("name", FORMATS)
def test_same_members_in_every_format(tmp_path: Path, name: str) -> None:
    files = archives.classes()
    path = archives.write(tmp_path / name, files)
    batches = read_all(paths=str(path), units=SMALL_UNITS)
    assert members(batches) == {
        key: (data, key.partition("/")[0], None) for key, data in files.items()
    }
    assert rejects(batches) == {}
    assert max(map(len, batches)) <= 3


@pytest.mark.parametrize(
    ("name", "label", "split"),
    [
        ("cat/1.png", "cat", None),
        ("data/train/cat/1.png", "cat", "train"),
        ("Val/cat/1.png", "cat", "validation"),
        ("test/1.png", None, "test"),
        ("1.png", None, None),
        ("unlabelled/cat/1.png", None, "unlabelled"),
        ("../../etc/1.png", "etc", None),
        ("/1.png", None, None),
        ("train/test/1.png", "test", "train"),
        ("train/train/1.png", "train", "train"),
    ],
)
def test_labels_and_splits_from_paths(
    tmp_path: Path, name: str, label: str | None, split: str | None
) -> None:
    path = archives.write(tmp_path / "a.zip", {name: archives.png()})
    assert members(read_all(paths=str(path)))[name][1:] == (label, split)


def test_hash_splits_leave_split_names_to_classes(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "a.zip", {"train/1.png": archives.png()})
    found = members(read_all(paths=str(path), splits={"source": "hash"}))
    assert found["train/1.png"][1:] == ("train", None)


def test_labels_can_be_ignored(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "a.zip", archives.classes())
    found = members(read_all(paths=str(path), labels={"source": "none"}))
    assert {label for _, label, _ in found.values()} == {None}


def test_an_archive_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "caf\udce9.zip", archives.classes(2))
    with pytest.raises(ValueError, match=r"caf\\xe9.zip: the name is not UTF-8; rename"):
        InputConfig(paths=(str(path),))
    with pytest.raises(InputError, match=r"caf\\xe9.zip: the name is not UTF-8; rename"):
        read_all(paths=str(tmp_path / "*.zip"))


def test_several_roots_and_globs(tmp_path: Path) -> None:
    first = archives.write(tmp_path / "one.zip", {"a/1.png": archives.png(1)})
    archives.write(tmp_path / "two.tar", {"b/1.png": archives.png(2)})
    archives.write(tmp_path / "tree", {"c/1.png": archives.png(3)})
    batches = read_all(paths=[str(tmp_path / "*.tar"), str(first), str(tmp_path / "tree")])
    assert list(members(batches)) == ["b/1.png", "a/1.png", "c/1.png"]
    assert batches[0].keys == [f"{tmp_path}/two.tar/b/1.png"]


def test_folders_within_each_other_are_refused(tmp_path: Path) -> None:
    archives.write_folder(tmp_path / "all", {"cat/1.png": archives.png()})
    inner, outer = str(tmp_path / "all/cat"), str(tmp_path / "all")
    for paths in ([inner, outer], [outer, f"{outer}/../all/cat"]):
        with pytest.raises(InputError, match=r"all/cat: lies in \S+/all, which is read with all"):
            read_all(paths=paths)
    assert len(members(read_all(paths=[outer, f"{outer}/../all"]))) == 1
    archives.write_folder(tmp_path / "deep", {"cat/old/2.png": archives.png()})
    with pytest.raises(InputError, match=r"its folders; leave out \*\* from `paths`"):
        read_all(paths=[str(tmp_path / "deep/**")])


def test_a_source_that_is_named_twice_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    archives.write(tmp_path / "one.zip", {"a/1.png": archives.png(1)})
    folder.mkdir()
    monkeypatch.chdir(folder)
    config = InputConfig(paths=("../one.zip", f"{folder}/../one.zip", "../*.zip", "./../one.zip"))
    batches = read_all(**dict(config.absolute()))
    assert [key for batch in batches for key in batch.keys] == [f"{tmp_path}/one.zip/a/1.png"]


def test_a_folder_behind_a_link_keeps_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/inner")
    monkeypatch.chdir(tmp_path)
    assert absolute_path("link/../x/") == f"{tmp_path}/link/../x/"
    assert absolute_path("far/inner/../x/") == f"{tmp_path}/far/x/"


def test_litter_is_ignored_and_counted(tmp_path: Path) -> None:
    litter = {".DS_Store": b"x", "__MACOSX/a/._1.png": b"x", "a/Thumbs.db": b"x"}
    assert all(map(ignored_reason, litter))
    for name in ("tree", "a.zip", "a.tar"):
        path = archives.write(tmp_path / name, {**litter, "a/1.png": archives.png()})
        batches = read_all(paths=str(path))
        assert list(members(batches)) == ["a/1.png"]
        assert sum(batch.ignored.total() for batch in batches) == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cat/.ipynb_checkpoints/0-checkpoint.png", "hidden"),
        (".git/objects/a.png", "hidden"),
        ("cat/._1.png", "hidden"),
        ("cat/@eaDir/x.jpg/SYNOPHOTO_THUMB_XL.jpg", "system"),
        ("cat/_gsdata_/1.jpg", "system"),
        ("__MACOSX/cat/1.png", "system"),
        ("$RECYCLE.BIN/1.png", "system"),
        ("cat/thumbs.db", "system"),
        ("cat/Thumbs.db:encryptable", "system"),
        ("cat/ehthumbs.db", "system"),
        ("cat/Desktop.ini", "system"),
        ("cat/Icon\r", "system"),
        ("cat/~$x.docx", "system"),
        ("cat/1.png:Zone.Identifier", "system"),
        ("cat_$folder$", "marker"),
        ("_SUCCESS", "marker"),
        ("_temporary/0/1.png", "marker"),
        ("cat/", "folder"),
        ("./cat/1.png", None),
        ("../cat/1.png", None),
        ("cat/x$.png", None),
        ("cat/success.png", None),
        ("cat/icon.png", None),
    ],
)
def test_ignored_names(name: str, reason: str | None) -> None:
    assert ignored_reason(name) == reason


def test_folders_of_tools_are_no_classes(tmp_path: Path) -> None:
    files = {
        "cat/1.png": archives.png(1),
        "cat/.ipynb_checkpoints/0-checkpoint.png": archives.png(1),
        "cat/@eaDir/x.jpg": archives.png(2),
        "cat/thumbs.db": b"x",
        "cat_$folder$": b"",
    }
    # The root itself may lie below a hidden folder.
    for name in (".cache/tree", "a.zip", "a.tar"):
        batches = read_all(paths=str(archives.write(tmp_path / name, files)))
        assert {name: row[1] for name, row in members(batches).items()} == {"cat/1.png": "cat"}
        assert rejects(batches) == {}
        ignored = NamedCounts()
        for batch in batches:
            ignored.update(batch.ignored)
        del ignored.counts["folder"]
        assert ignored.counts == {"hidden": 1, "system": 2, "marker": 1}
        assert ignored.examples["hidden"] == ["cat/.ipynb_checkpoints/0-checkpoint.png"]


def test_named_counts_add_up_in_any_order() -> None:
    parts = [NamedCounts() for _ in range(3)]
    for number, part in enumerate(parts):
        for name in range(4):
            part.add("hidden", f"{number}-{name}")
    sums = []
    for order in itertools.permutations(parts):
        total = NamedCounts()
        for part in order:
            total.update(part)
        sums.append(total)
    assert all(total == sums[0] for total in sums)
    assert sums[0].total() == 12
    assert NamedCounts.from_json(json.loads(json.dumps(sums[0].to_json()))) == sums[0]


PLACES = {
    "train/cat/1.png": ("cat", "train"),
    "test_set/cat/1.png": ("cat", "test"),
    "val2017/cat/1.png": ("cat", "validation"),
    "val2017/1.png": (None, "validation"),
    "Test_Data/cat/1.png": ("cat", "test"),
    "TestSet/cat/1.png": ("cat", "test"),
    "trn/cat/1.png": ("cat", "train"),
    "tst/cat/1.png": ("cat", "test"),
    "evaluation/cat/1.png": ("cat", "test"),
    "imagenet-test-v2/cat/1.png": ("cat", "test"),
    "seg_train/seg_train/cat/1.png": ("cat", "train"),
    "seg_pred/seg_pred/1.png": (None, "unlabelled"),
    "asl_alphabet_test/asl_alphabet_test/A_test.jpg": (None, "test"),
    "train/unlabeled/1.png": (None, "unlabelled"),
    "unlabeled_train/1.png": (None, "unlabelled"),
    "test-dev2017/cat/1.png": ("cat", "test"),
    "trainval/cat/1.png": ("cat", "train"),
    "my-training-data/val/cat/1.png": ("cat", "validation"),
    "train_test_split/cat/1.png": ("cat", None),
    "train/bullet_train/1.png": ("bullet_train", "train"),
    "bullet_train/1.png": ("bullet_train", None),
    "test_tube/1.png": ("test_tube", None),
    "train/test/1.png": ("test", "train"),
    "test/1.png": (None, "test"),
    "train/cat/images/1.JPEG": ("cat", "train"),
    "val/images/1.JPEG": (None, "validation"),
    "latest/1.png": ("latest", None),
    "cafe\u0301/1.png": ("caf\u00e9", None),
    "caf\udce9/1.png": ("caf\ufffd", None),
    "line\nbreak/1.png": ("line break", None),
    " space /1.png": (" space ", None),
}


@pytest.mark.parametrize("name", PLACES)
def test_labels_and_splits_of_paths(name: str) -> None:
    place = PathNaming(InputConfig(paths=("x",))).place(name)
    label = clean_label(place.label) if place.label else None
    assert (label, place.split) == PLACES[name]


def test_level_of_labels() -> None:
    config = InputConfig.model_validate({"paths": "x", "labels": {"level": 2}})
    naming = PathNaming(config)
    assert naming.place("train/cat/frames/1.png")[:2] == ("cat", "train")
    assert naming.place("val/frames/1.png")[:2] == (None, "validation")
    assert naming.place("1.png")[:2] == (None, None)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("imagenet-train-00.tar", "imagenet-test-00.tar"), ["train", "test"]),
        (("letters-train-v2.zip", "letters_test.zip"), ["train", "test"]),
        (("trees/train", "trees/test"), ["train", "test"]),
        (("only-test.zip",), [None]),
        (("plain.zip", "testing.zip"), [None, "test"]),
    ],
)
def test_splits_of_sources(tmp_path: Path, names: tuple[str, ...], splits: list[str]) -> None:
    for number, name in enumerate(names):
        archives.write(tmp_path / name, {f"cat/{number}.png": archives.png(number)})
    batches = read_all(paths=[str(tmp_path / name) for name in names])
    assert [split for batch in batches for split in batch.splits] == splits
    assert {label for batch in batches for label in batch.labels} == {"cat"}


def test_classes_called_like_splits(tmp_path: Path) -> None:
    root = archives.write(tmp_path / "test", {"train/1.png": archives.png(1)})
    other = archives.write(tmp_path / "train", {"train/1.png": archives.png(2)})
    batches = read_all(paths=[str(root), str(other)])
    assert [(batch.labels, batch.splits) for batch in batches] == [
        (["train"], ["test"]),
        (["train"], ["train"]),
    ]


def test_changed_class_names_are_reported(tmp_path: Path) -> None:
    files = {"caf\udce9/1.png": archives.png(1), "cafe\u0301/1.png": archives.png(2)}
    batches = read_all(paths=str(archives.write(tmp_path / "tree", files)))
    renamed = {new: old for batch in batches for new, old in batch.renamed.items()}
    assert renamed == {"caf\ufffd": "caf\\xe9"}


def test_zip_defects(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/good.png", archives.png())
        link = zipfile.ZipInfo("a/link.png")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        pipe = zipfile.ZipInfo("a/pipe.png")
        pipe.create_system = 3
        pipe.external_attr = (stat.S_IFIFO | 0o600) << 16
        archive.writestr(pipe, "")
        archive.writestr("a/bomb.png", bytes(30_000_000))
        archive.writestr("a/large.png", os.urandom(50_000))
        archive.writestr("a/lzma.png", archives.png(), zipfile.ZIP_LZMA)
        archive.writestr("a/crc.png", archives.png(2), zipfile.ZIP_STORED)
        archive.writestr("a/locked.png", archives.png(3), zipfile.ZIP_STORED)
        archive.writestr("folder/", b"")
    raw = bytearray(sink.getvalue())
    raw[raw.index(archives.png(2)) + 60] ^= 1
    locked = raw.rindex(b"a/locked.png") - 46
    raw[locked + 8] |= 1
    path.write_bytes(raw)
    batches = read_all(paths=str(path), limits={"max_bytes": 40_000}, units=SMALL_UNITS)
    assert list(members(batches)) == ["a/good.png"]
    assert rejects(batches) == {
        "a/link.png": "link",
        "a/pipe.png": "device",
        "a/bomb.png": "too_large",
        "a/large.png": "too_large",
        "a/lzma.png": "unreadable",
        "a/crc.png": "checksum",
        "a/locked.png": "encrypted",
    }
    assert sum(batch.ignored.total() for batch in batches) == 1
    assert rejects(read_all(paths=str(path)))["a/bomb.png"] == "too_compressed"


def test_every_ratio_has_the_same_floor(tmp_path: Path) -> None:
    """A blank page packs well, as a member of a zip, in a packed tar and as a PNG."""
    for name in ("a.zip", "a.tar.gz"):
        path = archives.write(tmp_path / name, {"a/blank.bmp": bytes(RATIO_FLOOR // 2)})
        assert list(members(read_all(paths=str(path)))) == ["a/blank.bmp"]
    path = archives.write(tmp_path / "b.zip", {"a/bomb.bmp": bytes(RATIO_FLOOR + 1)})
    assert rejects(read_all(paths=str(path))) == {"a/bomb.bmp": "too_compressed"}
    path = archives.write(tmp_path / "b.tar.gz", {"a/bomb.bmp": bytes(RATIO_FLOOR + 1)})
    with pytest.raises(InputError, match="a decompression bomb"):
        read_all(paths=str(path))
    side = math.isqrt(RATIO_FLOOR)
    assert isinstance(check(archives.blank_png(side), LimitsConfig()), ImageHeader)
    fault = check(archives.blank_png(side + 1), LimitsConfig())
    assert isinstance(fault, ImageFaultError)
    assert fault.reason == "too_compressed"


def test_zip_that_lies_about_sizes(tmp_path: Path) -> None:
    """A member that claims 100 bytes and unpacks to a million is cut off, not believed."""
    raw = bytearray(archives.zip_bytes({"a/1.png": bytes(1_000_000)}))
    entry = raw.rindex(b"a/1.png") - 46
    raw[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(raw)
    assert rejects(read_all(paths=str(tmp_path / "a.zip"))) == {"a/1.png": "unreadable"}


def test_a_zip_that_changes_after_planning_is_refused(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "a.zip", {f"{i}.png": archives.png(i) for i in range(9)})
    source = ImageSource(InputConfig(paths=(str(path),), units=UnitsConfig(members=4)))
    units = list(source.units())
    assert len(units) == 3
    content = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("new.png", archives.png(10))
    for changed in (path.read_bytes(), content[:-200], b""):
        path.write_bytes(changed)
        with pytest.raises(InputError, match="has changed since it was opened"):
            list(source.read(units[-1]))


def test_zip_with_overlapping_members(tmp_path: Path) -> None:
    raw = bytearray(archives.zip_bytes({f"a/{i}.png": archives.png(i) for i in range(4)}, 0))
    first = raw.index(b"PK\x01\x02")
    at = first
    for _ in range(4):
        raw[at + 42 : at + 46] = (0).to_bytes(4, "little")
        at = raw.find(b"PK\x01\x02", at + 4)
    (tmp_path / "a.zip").write_bytes(raw)
    batches = read_all(paths=str(tmp_path / "a.zip"))
    assert len(members(batches)) == 1
    assert sorted(rejects(batches).values()) == ["overlap"] * 3


def test_zip_with_duplicate_names_and_strange_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", archives.png(1))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/1.png", archives.png(2))
        archive.writestr("C:\\windows\\1.png", archives.png(3))
        archive.writestr("/abs/1.png", archives.png(4))
        archive.writestr("../../up/1.png", archives.png(5))
        archive.writestr("日本/ö.png", archives.png(6))
    (batch,) = read_all(paths=str(path))
    assert batch.data == [archives.png(i) for i in range(1, 7)]
    assert batch.names[:2] == ["a/1.png", "a/1.png#2"]
    assert batch.labels == ["a", "a", "windows", "abs", "up", "日本"]
    assert sorted(os.listdir(tmp_path)) == ["a.zip"]


def test_zip64_and_something_in_front(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for i in range(3):
            info = zipfile.ZipInfo(f"a/{i}.png")
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(archives.png(i))
    (tmp_path / "a.zip").write_bytes(b"#!/bin/sh\n" + sink.getvalue())
    found = members(read_all(paths=str(tmp_path / "a.zip")))
    assert [data for data, _, _ in found.values()] == [archives.png(i) for i in range(3)]


def test_zip_with_more_than_65535_members(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(66_000):
            archive.writestr(f"a/{i}.png", b"")
    source = ImageSource(InputConfig(paths=(str(path),)))
    units = list(source.units())
    assert sum(unit.members for unit in units) == 66_000
    assert len(units) == 9
    last = list(source.read(units[-1]))
    assert last[-1].names[-1] == "a/65999.png"


def test_tar_defects(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "/etc/passwd"
            archive.addfile(info, io.BytesIO(data))

        add("a/good.png", data=archives.png())
        add("a/link.png", tarfile.SYMTYPE)
        add("a/hard.png", tarfile.LNKTYPE)
        add("a/null.png", tarfile.CHRTYPE)
        add("a/pipe.png", tarfile.FIFOTYPE)
        add("a", tarfile.DIRTYPE)
        add("a/large.png", data=bytes(50_000))
        add("../../up.png", data=archives.png(2))
        add("long/" + "x" * 300 + ".png", data=archives.png(3))
        add("a/good.png", data=archives.png(4))
    batches = read_all(paths=str(path), limits={"max_bytes": 40_000})
    assert [name for batch in batches for name in batch.names] == [
        "a/good.png",
        "../../up.png",
        "long/" + "x" * 300 + ".png",
        "a/good.png#2",
    ]
    assert rejects(batches) == {
        "a/link.png": "link",
        "a/hard.png": "link",
        "a/null.png": "device",
        "a/pipe.png": "device",
        "a/large.png": "too_large",
    }


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_tar_formats_keep_names(tmp_path: Path, tar_format: int) -> None:
    name = "a" * 90 + "/" + "b" * 60 + "/ö.png"
    (tmp_path / "a.tar").write_bytes(archives.tar_bytes({name: archives.png()}, tar_format))
    assert list(members(read_all(paths=str(tmp_path / "a.tar")))) == [name]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst", "a.zip"])
def test_cut_archives_are_refused(tmp_path: Path, name: str) -> None:
    path = archives.write(tmp_path / name, archives.classes())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match=r"a\.(tar|zip).*(cut short|end is missing|central)"):
        read_all(paths=str(path))


def test_tar_bombs_are_refused(tmp_path: Path) -> None:
    import gzip

    info = tarfile.TarInfo("a/1.png")
    info.size = 200_000_000
    head = info.tobuf()
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(head + bytes(info.size)))
    with pytest.raises(InputError, match="a decompression bomb"):
        read_all(paths=str(path), format="tar")
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 10_000_000_000
    (tmp_path / "b.tar").write_bytes(pax.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InputError, match="extended header of 10000000000 bytes"):
        read_all(paths=str(tmp_path / "b.tar"), format="tar")


def test_too_many_members(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar"):
        path = archives.write(tmp_path / name, archives.classes())
        with pytest.raises(InputError, match="more than 10 members"):
            read_all(paths=str(path), limits={"max_members": 10})


def test_folder_defects(tmp_path: Path) -> None:
    root = archives.write(tmp_path / "tree", {"a/1.png": archives.png(), "a/2.png": b"x" * 900})
    (root / "a/dangling.png").symlink_to(root / "nowhere")
    (root / "a/link.png").symlink_to(root / "a/1.png")
    (root / "circle").symlink_to(root)
    os.mkfifo(root / "a/pipe.png")
    batches = read_all(paths=str(root), limits={"max_bytes": 800})
    assert list(members(batches)) == ["a/1.png", "a/link.png"]
    assert rejects(batches) == {
        "a/2.png": "too_large",
        "a/dangling.png": "link",
        "a/pipe.png": "device",
    }


def test_walk_sorts_across_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["b/1", "a/2", "a/10", "a/new\nline", "c", "b.x/0"]
    archives.write_folder(tmp_path, dict.fromkeys(names, b""))
    expected = list(listing.walk(str(tmp_path)))
    assert sorted(expected) == sorted(names)
    monkeypatch.setattr(listing, "_RUN", 2)
    assert list(listing.walk(str(tmp_path))) == expected


def test_webdataset_numbers_without_a_name(tmp_path: Path) -> None:
    files = {f"{i}.png": archives.png(i) for i in range(3)}
    files |= {"0.cls": b"1", "1.cls": b"2", "2.cls": "²".encode()}
    path = archives.write(tmp_path / "a.tar", dict(sorted(files.items(), reverse=True)))
    batches = read_all(paths=str(path), labels={"names": ("zero", "one")})
    assert [label for batch in batches for label in batch.labels] == ["²", "one"]
    assert rejects(batches) == {"1.png": "bad_label"}


def test_webdataset(tmp_path: Path) -> None:
    shard = archives.tar_bytes(
        {
            "s/0001.png": archives.png(1),
            "s/0001.cls": b"1",
            "s/0002.cls": b"0\n",
            "s/0002.left.png": archives.png(2),
            "s/0003.jpg": archives.jpeg(3),
            "s/0003.json": b'{"label": "dog", "width": 3}',
            "s/0004.png": archives.png(4),
            "s/0005.txt": b"lost",
        }
    )
    (tmp_path / "train-000.tar").write_bytes(shard)
    batches = read_all(paths=str(tmp_path / "train-000.tar"), labels={"names": ["cat", "cow"]})
    assert {name: row[1:] for name, row in members(batches).items()} == {
        "s/0001.png": ("cow", "train"),
        "s/0002.left.png": ("cat", "train"),
        "s/0003.jpg": ("dog", "train"),
        "s/0004.png": (None, "train"),
    }
    assert sum(batch.ignored.total() for batch in batches) == 4


@pytest.mark.parametrize("pack", [True, False])
def test_idx(tmp_path: Path, pack: bool) -> None:
    images = np.stack([archives.pixels(i, 5, 4)[:, :, 0] for i in range(10)])
    archives.write_idx(tmp_path, "train", images[:7], [0, 1, 2, 0, 1, 2, 9], pack)
    archives.write_idx(tmp_path, "t10k", images[7:], [0, 1, 2], pack)
    names = {"names": ("zero", "one", "two")}
    batches = read_all(paths=str(tmp_path), labels=names, units=SMALL_UNITS)
    labels = [label for batch in batches for label in batch.labels]
    splits = [split for batch in batches for split in batch.splits]
    assert labels == ["zero", "one", "two"] * 3
    assert splits == ["test"] * 3 + ["train"] * 6
    assert rejects(batches) == {"00000006": "bad_label"}
    ignoring = {**names, "unreadable": "ignore"}
    batches = read_all(paths=str(tmp_path), labels=ignoring, units=SMALL_UNITS)
    labels = [label for batch in batches for label in batch.labels]
    assert sorted(map(str, labels)) == sorted(["zero", "one", "two"] * 3 + ["None"])
    assert all(len(batch.identity or ()) == len(batch) for batch in batches)
    batches = read_all(paths=str(tmp_path), labels=names, units=SMALL_UNITS)
    from components.image_checks import ImageHeader, check, decode

    header = check(batches[0].data[1], InputConfig(paths=("x",)).limits)
    assert isinstance(header, ImageHeader)
    np.testing.assert_array_equal(decode(batches[0].data[1], header)[:, :, 0], images[8])


def test_idx_faults(tmp_path: Path) -> None:
    images = np.zeros((3, 2, 2), np.uint8)
    path = archives.write_idx(tmp_path, "train", images, [0, 1, 0], pack=False)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut short: 1 bytes are missing"):
        read_all(paths=str(path))
    path.write_bytes(path.read_bytes() + b"xyz")
    with pytest.raises(InputError, match="2 bytes more than its header says"):
        read_all(paths=str(path))
    path.write_bytes(path.read_bytes()[:4] + b"\xff" * 4 + path.read_bytes()[8:])
    with pytest.raises(InputError, match=r"cut short: 1[0-9]* bytes are missing"):
        read_all(paths=str(path))
    for labels in ([0, 1], [0, 1, 2, 0]):
        archives.write_idx(tmp_path, "train", images, labels, pack=False)
        with pytest.raises(InputError, match=f"{len(labels)} labels for the 3 images of .*; take"):
            read_all(paths=str(path))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="no label file"):
        read_all(paths=str(path))
    assert len(members(read_all(paths=str(path), labels={"source": "none"}))) == 3


@pytest.mark.parametrize("part", ["images-idx3", "labels-idx1"])
def test_damage_of_a_packed_idx_file_is_noticed(tmp_path: Path, part: str) -> None:
    images = np.stack([archives.pixels(i, 5, 4)[:, :, 0] for i in range(4)])
    path = archives.write_idx(tmp_path, "train", images, [0, 1, 0, 1], pack=True)
    file = tmp_path / f"train-{part}-ubyte.gz"
    sound = file.read_bytes()
    file.write_bytes(sound[:-8] + bytes(4) + sound[-4:])
    with pytest.raises(InputError, match=r"ubyte.gz: damaged or cut short \(CRC check failed"):
        read_all(paths=str(path))
    file.write_bytes(gzip.compress(gzip.decompress(sound) + b"x"))
    with pytest.raises(InputError, match="more bytes than its header says; copy it"):
        read_all(paths=str(path))


@pytest.mark.parametrize("pack", [True, False])
def test_idx_files_with_the_suffix_of_the_others(tmp_path: Path, pack: bool) -> None:
    images = np.stack([archives.pixels(i, 5, 4)[:, :, 0] for i in range(4)])
    path = archives.write_idx(tmp_path, "train", images, [0, 1, 0, 1], pack)
    for file in tmp_path.iterdir():
        file.rename(str(file).removesuffix(".gz") if pack else f"{file}.gz")
    path = next(tmp_path.glob("train-images*"))
    assert [row[1] for row in members(read_all(paths=str(path))).values()] == ["0", "1", "0", "1"]


def test_large_idx_images_are_read_in_bounded_batches(tmp_path: Path) -> None:
    images = np.zeros((5, 40, 50), np.uint8)
    path = archives.write_idx(tmp_path, "train", images, [0, 1, 0, 1, 0], pack=False)
    source = ImageSource(
        InputConfig.model_validate({"paths": str(path), "units": {"max_bytes": 5000}})
    )
    assert [unit.members for unit in source.units()] == [2, 2, 1]


def test_tfrecord(tmp_path: Path) -> None:
    records = [
        archives.example(image__encoded=archives.png(1), image__class__text=b"cat"),
        archives.example(image__encoded=archives.png(2), image__class__label=1),
        archives.example(image__encoded=archives.png(3), image__class__label=7),
        archives.example(image__encoded=archives.png(4), image__filename=b"d/4.png"),
        archives.example(other=b"x"),
        b"\xff\xff",
    ]
    content = bytearray(archives.tfrecord_bytes([*records, records[0]]))
    content[-10] ^= 1
    (tmp_path / "val-0.tfrecord").write_bytes(content)
    batches = read_all(paths=str(tmp_path / "val-0.tfrecord"), labels={"names": ["cat", "dog"]})
    assert {name: row[1:] for name, row in members(batches).items()} == {
        "00000000": ("cat", "validation"),
        "00000001": ("dog", "validation"),
        "00000003/d/4.png": (None, "validation"),
    }
    assert rejects(batches) == {
        "00000002": "bad_label",
        "00000004": "bad_record",
        "00000005": "bad_record",
        "00000006": "checksum",
    }
    (tmp_path / "val-0.tfrecord").write_bytes(content[:-3])
    with pytest.raises(InputError, match="ends inside a record"):
        read_all(paths=str(tmp_path / "val-0.tfrecord"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_manifest(tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    files = archives.write_folder(tmp_path / "x", {f"{i}.png": archives.png(i) for i in range(4)})
    table = pa.table(
        {
            "file": ["x/0.png", str(files / "1.png"), "x/2.png", "x/none.png", "x/3.png"],
            "kind": ["cat", "dog", None, "cat", "cat"],
            "part": ["train", "test", None, "val", "nonsense"],
        }
    )
    path = tmp_path / f"m.{suffix}"
    if suffix == "csv":
        pyarrow.csv.write_csv(table, path)
    elif suffix == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        import json

        path.write_text("\n".join(map(json.dumps, table.to_pylist())))
    columns = {"path": "file", "label": "kind", "split": "part"}
    batches = read_all(paths=str(path), manifest=columns, units=SMALL_UNITS)
    assert members(batches) == {
        str(files / "0.png"): (archives.png(0), "cat", "train"),
        str(files / "1.png"): (archives.png(1), "dog", "test"),
        str(files / "2.png"): (archives.png(2), None, None),
    }
    assert rejects(batches) == {"x/3.png": "bad_split", f"{tmp_path}/x/none.png": "missing"}
    assert next(key for batch in batches for key in batch.keys) == str(files / "0.png")
    with pytest.raises(InputError, match="no column 'path' among 'file', 'kind', 'part'"):
        read_all(paths=str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing.zip", None, "no such file or folder"),
        ("none*.zip", None, "nothing matches"),
        ("text.zip", b"this is text", "not a zip archive"),
        ("empty.zip", b"", "not a zip archive"),
        ("text.tar", b"this is text" * 100, "no tar archive, or damaged"),
        ("unknown.bin", b"abc", "no archive, folder, manifest or data set"),
        ("empty.bin", b"", "an empty file"),
        ("one.png", archives.png(), "an image by itself; name the folder"),
        ("no.zip", archives.zip_bytes({}), "no images; the archive or folder is empty"),
        ("text.csv", b"\xff\xfe\0", "not a readable manifest"),
        ("text.jsonl", b'{"path": "a.png"}\n{"path"', "line 2 is no JSON: Expecting"),
        ("text.tfrecord", b"this is text, no records", "not a TFRecord file"),
        ("x-images-idx3-ubyte", b"this is text", "not an IDX file"),
    ],
)
def test_unusable_inputs_say_so_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_all(paths=str(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tree.zip", "tree.tar", "tree.csv", "x-images-idx3-ubyte"])
def test_folders_with_the_name_of_a_file(tmp_path: Path, name: str) -> None:
    root = archives.write_folder(tmp_path / name, archives.classes(2))
    assert len(members(read_all(paths=str(root)))) == 6


@pytest.mark.parametrize("image_format", ["zip", "tar", "webdataset", "manifest", "tfrecord"])
def test_no_regular_file(tmp_path: Path, image_format: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("folder", "a folder, not a file"), ("pipe", "a pipe or device")):
        with pytest.raises(InputError, match=f"/{name}: {message}") as caught:
            read_all(paths=str(tmp_path / name), format=image_format)
        assert "\n" not in str(caught.value)


def test_disk_that_fails_on_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = archives.write(tmp_path / "a.zip", archives.classes(2))
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(InputError, match=r"a\.zip: cannot be read: Input/output error"):
        read_all(paths=str(path))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images; the archive or folder is empty"):
        read_all(paths=str(tmp_path))


@pytest.mark.parametrize(
    ("path", "split"),
    [("a/train-0001.tar", "train"), ("x/test/0.tfrecord", "test"), ("a/trainer.tar", None)],
)
def test_split_of_file(path: str, split: str | None) -> None:
    assert split_of_file(path) == split


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/\\"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.tuples(NAMES, NAMES)
        .map("/".join)
        .filter(lambda name: not ignored_reason(name) and not is_side_file(name)),
        st.binary(max_size=300),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
    st.integers(1, 400),
)
def test_any_names_and_sizes_come_through(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], count: int, size: int
) -> None:
    root = tmp_path_factory.mktemp("any")
    units = {"members": count, "batch": 2, "max_bytes": size}
    for name in ("a.zip", "a.tar", "a.tar.zst"):
        path = archives.write(root / name, files)
        found = read_all(paths=str(path), units=units, format=name.split(".")[1])
        assert {key: row[0] for key, row in members(found).items()} == files
        assert rejects(found) == {}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_archives_never_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever bytes change, a source gives members, rejects or one line; nothing else."""
    root = tmp_path_factory.mktemp("damaged")
    name = data.draw(st.sampled_from(["a.zip", "a.tar", "a.tar.gz"]))
    path = archives.write(root / name, archives.classes(2))
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        batches = read_all(paths=str(path), format=name.split(".")[1])
    except InputError:
        return
    assert all(isinstance(reject, Reject) for batch in batches for reject in batch.rejects)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("VOCtest_06-Nov-2007.tar", True),
        ("cifar10train.zip", True),
        ("dogsTestSet", True),
        ("train_test_split", True),
        ("contest", False),
        ("greatestHits", False),
        ("Trainers.zip", False),
        ("Valentine", False),
    ],
)
def test_names_that_look_like_splits(name: str, expected: bool) -> None:
    assert looks_like_split(name) == expected
