"""Archives as people really make them: joined, half downloaded, old, from other systems."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from components.image_sources.braces import expand_braces
from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.spans import resolve
from tests import archives
from tests.components.test_image_sources import members, read_all, rejects
from trainer.errors import InputError

PACKERS = {
    ".tar": lambda data: data,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
    ".tar.zst": zstandard.ZstdCompressor().compress,
}


def tar(*names: str, first: int = 0, **options: Any) -> bytes:
    """A tar of images, padded to 10,240 bytes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", **options) as archive:
        for number, name in enumerate(names, first):
            data = archives.png(number)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("packed_first", [False, True])
def test_joined_tars_are_read_to_the_last(tmp_path: Path, suffix: str, packed_first: bool) -> None:
    parts = [tar("a/1.png", "a/2.png"), tar("b/3.png", first=2), tar("c/4.png", first=3)]
    pack = PACKERS[suffix]
    path = tmp_path / f"joined{suffix}"
    path.write_bytes(b"".join(map(pack, parts)) if packed_first else pack(b"".join(parts)))
    assert list(members(read_all(paths=str(path)))) == ["a/1.png", "a/2.png", "b/3.png", "c/4.png"]


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_tar_that_ends_in_zeros_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    whole = tar(*(f"a/{number:03d}.png" for number in range(120)))
    kept = round(len(whole) * share)
    cuts = [kept, kept // 512 * 512, kept // 1024 * 1024]
    for cut in cuts:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(PACKERS[suffix](whole[:cut] + bytes(len(whole) - cut)))
        with pytest.raises(InputError, match=r"zero bytes after member \d+, as an unfinished"):
            read_all(paths=str(path))
    path.write_bytes(PACKERS[suffix](whole[:cut] + bytes(len(whole) - cut)))
    read_all(paths=str(path), limits={"max_tar_padding": len(whole)})


def test_a_packed_tar_of_which_the_end_is_zeros_is_refused(tmp_path: Path) -> None:
    whole = tar(*(f"a/{number:03d}.png" for number in range(120)))
    for suffix in (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"):
        packed = PACKERS[suffix](whole)
        cut = len(packed) * 9 // 10
        path = tmp_path / f"a{suffix}"
        path.write_bytes(packed[:cut] + bytes(len(packed) - cut))
        with pytest.raises(InputError, match=f"a{suffix}: (damaged|cut short)"):
            read_all(paths=str(path))


@pytest.mark.parametrize("padding", [0, 512, 1024, 10240])
def test_ends_of_sound_tars(tmp_path: Path, padding: int) -> None:
    content = tar("a/1.png").rstrip(b"\0")
    content += bytes(-len(content) % 512) + bytes(512 + padding)
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    assert list(members(read_all(paths=str(path)))) == ["a/1.png"]


def test_junk_behind_a_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for junk in (b"\n", b"x" * 512, gzip.compress(tar("b/1.png"))):
        path.write_bytes(tar("a/1.png") + junk)
        with pytest.raises(InputError, match="the end marker behind member 1 is no tar"):
            read_all(paths=str(path))


def test_an_old_tar_without_types(tmp_path: Path) -> None:
    content = bytearray(tar("cat/1.png"))
    folder = tarfile.TarInfo("cat/")
    folder.type = tarfile.AREGTYPE
    head = bytearray(folder.tobuf(tarfile.USTAR_FORMAT))
    for block in (head, content):
        # The v7 format ends after the name of a link.
        block[156] = 0
        block[257:500] = bytes(243)
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    for name in ("old.tar", "no-suffix"):
        (tmp_path / name).write_bytes(bytes(head) + bytes(content))
        batches = read_all(paths=str(tmp_path / name))
        assert {name: row[1] for name, row in members(batches).items()} == {"cat/1.png": "cat"}
        assert rejects(batches) == {}
        assert sum(batch.ignored.counts["folder"] for batch in batches) == 1


def sparse_member(name: str, data: bytes) -> bytes:
    """A file with holes as `tar --sparse` writes it: maps in front of its data, in three blocks."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = tarfile.GNUTYPE_SPARSE, len(data)
    head = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    head[482] = 1
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:512]))
    more, last = bytearray(512), bytes(512)
    more[504] = 1
    return bytes(head) + bytes(more) + last + data + bytes(-len(data) % 512)


def test_a_sparse_file_is_a_reject_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "gnu.tar").write_bytes(
        tar("a/1.png").rstrip(b"\0").ljust(1024, b"\0")[:1024]
        + sparse_member("a/holes.bmp", archives.bmp())
        + tar("a/2.png", first=1)
    )
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("a/GNUSparseFile.7/holes.bmp")
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "a/holes.bmp"}
        archive.addfile(entry)
        for number in (1, 2):
            entry = tarfile.TarInfo(f"a/{number}.png")
            entry.size = len(archives.png(number))
            archive.addfile(entry, io.BytesIO(archives.png(number)))
    (tmp_path / "pax.tar").write_bytes(sink.getvalue())
    for name in ("gnu.tar", "pax.tar"):
        batches = read_all(paths=str(tmp_path / name))
        assert list(members(batches)) == ["a/1.png", "a/2.png"]
        (reject,) = (reject for batch in batches for reject in batch.rejects)
        assert (reject.member, reject.reason) == ("a/holes.bmp", "unreadable")
        assert reject.detail == "a sparse file; make the tar without --sparse"


def test_links_of_a_tar_say_how_to_pack_the_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("a/1.png", tarfile.SYMTYPE), ("a/2.png", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "a/0.png"
            archive.addfile(entry)
    batches = read_all(paths=str(tmp_path / "a.tar"))
    assert [reject.detail for batch in batches for reject in batch.rejects] == [
        "a symbolic link; make the tar with --dereference",
        "a hard link; make the tar with --hard-dereference",
    ]


@pytest.mark.parametrize("labels", [{}, {"a/1.cls": b"cat"}])
def test_a_side_file_of_a_tar_is_ignored_whatever_its_size(
    tmp_path: Path, labels: dict[str, bytes]
) -> None:
    files = {"a/1.png": archives.png(), **labels, "boxes.json": b"{}" + bytes(60_000)}
    (tmp_path / "a.tar").write_bytes(archives.tar_bytes(files))
    batches = read_all(paths=str(tmp_path / "a.tar"), limits={"max_bytes": 50_000})
    assert list(members(batches)) == ["a/1.png"]
    assert rejects(batches) == {}
    assert sum(batch.ignored.counts["side_file"] for batch in batches) == 1 + len(labels)


@pytest.mark.parametrize(
    "suffix", [".tgz", ".TAR.GZ", ".tbz2", ".tbz", ".txz", ".tzst", ".tar.xz", ""]
)
def test_suffixes_of_packed_tars(tmp_path: Path, suffix: str) -> None:
    short = suffix.lower().replace(".tar", ".t").replace("..", ".")
    pack = next(
        (PACKERS[long] for key, long in {"b": ".tar.bz2", "x": ".tar.xz", "z": ".tar.zst"}.items()
         if short.startswith((f".t{key}", f".t.{key}"))),
        gzip.compress,
    )  # fmt: skip
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack(tar("cat/1.png")))
    assert list(members(read_all(paths=str(path)))) == ["cat/1.png"]


def zip_of(names: dict[bytes, bytes], *, flag: bool = False) -> bytes:
    """A zip with raw names and extra fields of the central directory."""
    body, directory = b"", b""
    for number, (name, extra) in enumerate(names.items()):
        data = archives.png(number)
        flags = 0x800 if flag else 0
        facts = struct.pack("<HHHHHLLL", 20, flags, 0, 0, 0, zlib.crc32(data), len(data), len(data))
        directory += b"PK\1\2" + struct.pack("<H", 20) + facts
        directory += struct.pack("<HHHHHLL", len(name), len(extra), 0, 0, 0, 0, len(body))
        directory += name + extra
        body += b"PK\3\4" + facts + struct.pack("<HH", len(name), 0) + name + data
    count = len(names)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end


def unicode_path(raw: bytes, name: str, *, checksum: int | None = None) -> bytes:
    content = struct.pack("<BL", 1, zlib.crc32(raw) if checksum is None else checksum)
    content += name.encode()
    other = struct.pack("<2sH", b"UT", 5) + bytes(5)
    return other + struct.pack("<2sH", b"up", len(content)) + content


def test_names_of_zips(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    raw = "狗/1.png".encode("gbk")

    def names(content: bytes, **config: object) -> list[str]:
        path.write_bytes(content)
        return list(members(read_all(paths=str(path), **config)))

    assert names(zip_of({raw: unicode_path(raw, "狗/1.png")})) == ["狗/1.png"]
    assert names(zip_of({b"??/1.png": unicode_path(b"??/1.png", "猫/1.png")})) == ["猫/1.png"]
    wrong = zip_of({b"a/1.png": unicode_path(b"a/1.png", "猫/1.png", checksum=1)})
    assert names(wrong) == ["a/1.png"]
    assert names(zip_of({raw: b""})) == [raw.decode("cp437")]
    assert names(zip_of({raw: b""}), names_encoding="gbk") == ["狗/1.png"]
    # In GBK this is valid UTF-8 of something else.
    cat = "猫/1.png".encode("gbk")
    assert names(zip_of({cat: b""}), names_encoding="gbk") == ["猫/1.png"]
    russian = "кот/1.png".encode("cp866")
    assert names(zip_of({russian: b""}), names_encoding="cp866") == ["кот/1.png"]
    # What is marked as UTF-8 is not in the configured encoding.
    marked = zip_of({"кот/1.png".encode(): b""}, flag=True)
    assert names(marked, names_encoding="cp866") == ["кот/1.png"]
    assert names(zip_of({b"caf\xe9/1.png": b""}, flag=True)) == ["caf\udce9/1.png"]
    with pytest.raises(ValueError, match="'klingon' is no encoding"):
        InputConfig(paths=("a.zip",), names_encoding="klingon")


@pytest.mark.parametrize("long", [False, True])
def test_names_of_tars_in_another_encoding(tmp_path: Path, long: bool) -> None:
    name = "кот/" + "1" * (120 if long else 1) + ".png"
    path = tmp_path / "a.tar"
    path.write_bytes(tar(name, format=tarfile.GNU_FORMAT, encoding="koi8-r"))
    assert list(members(read_all(paths=str(path), names_encoding="koi8-r"))) == [name]
    path.write_bytes(tar(name))
    assert list(members(read_all(paths=str(path), names_encoding="koi8-r"))) == [name]


def test_a_name_of_a_tar_that_happens_to_be_utf8(tmp_path: Path) -> None:
    name = "猫/1.png"
    assert name.encode("gbk").decode("utf-8") == "è/1.png"
    path = tmp_path / "a.tar"
    path.write_bytes(tar(name, format=tarfile.GNU_FORMAT, encoding="gbk"))
    assert list(members(read_all(paths=str(path), names_encoding="gbk"))) == [name]


def test_one_class_in_two_unicode_forms(tmp_path: Path) -> None:
    path = archives.write(
        tmp_path / "a.zip",
        {"caf\u00e9/1.png": archives.png(1), "cafe\u0301/2.png": archives.png(2)},
    )
    assert {row[1] for row in members(read_all(paths=str(path))).values()} == {"caf\u00e9"}


def wrapped_zip(path: Path, places: list[int]) -> None:
    """Writes a zip of images as macOS's Archive Utility does, without zip64 records.

    The file has holes to be small.
    """
    directory = b""
    with path.open("wb") as file:
        for number, place in enumerate(places):
            name, data = f"cat/{number}.png".encode(), archives.png(number)
            facts = struct.pack("<HHHHHLLL", 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data))
            file.seek(place)
            file.write(b"PK\3\4" + facts + struct.pack("<HH", len(name), 0) + name + data)
            directory += b"PK\1\2" + struct.pack("<H", 20) + facts
            directory += struct.pack("<HHHHHLL", len(name), 0, 0, 0, 0, 0, place % (1 << 32)) + name
        start = file.tell()
        count = len(places)
        file.write(directory)
        file.write(
            struct.pack(
                "<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), start % (1 << 32), 0
            )
        )
    assert os.stat(path).st_blocks * 512 < 1 << 20


def test_a_zip_with_offsets_modulo_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "big.zip"
    places = [0, 5000, (1 << 32) - 700, (1 << 32) + 100, (1 << 32) + 9000, (2 << 32) + 50]
    wrapped_zip(path, places)
    for size in (1, 2, 4, 100):
        batches = read_all(paths=str(path), units={"members": size})
        assert [row[0] for row in members(batches).values()] == [
            archives.png(number) for number in range(len(places))
        ]
        assert rejects(batches) == {}


def test_a_zip_with_a_member_above_4_gib_and_no_zip64(tmp_path: Path) -> None:
    """Nothing in the directory tells that the last offset has passed 4 GiB."""
    wrapped_zip(tmp_path / "big.zip", [0, 5000, (1 << 32) + 9000])
    with pytest.raises(InputError, match="holds a file of 4 GiB or more without zip64 records"):
        read_all(paths=str(tmp_path / "big.zip"))


def test_a_zip_with_data_in_front_is_still_read(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "a.zip", archives.classes(2))
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert len(members(read_all(paths=str(path)))) == 6


@pytest.mark.parametrize("cut", [0, 30])
def test_joined_zips_are_refused(tmp_path: Path, cut: int) -> None:
    first, second = (archives.zip_bytes({f"a/{i}.png": archives.png(i)}) for i in range(2))
    path = tmp_path / "a.zip"
    path.write_bytes(first + second[: len(second) - cut])
    with pytest.raises(InputError, match="several zips in one file"):
        read_all(paths=str(path))


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("shard-{00000..00002}.tar", [f"shard-0000{i}.tar" for i in range(3)]),
        ("s{9..11}", ["s9", "s10", "s11"]),
        ("s{3..1}", ["s3", "s2", "s1"]),
        ("s{01..10..4}", ["s01", "s05", "s09"]),
        ("{a,b}/{1..2}", ["a/1", "a/2", "b/1", "b/2"]),
        ("{a,b{1..2}}", ["a", "b1", "b2"]),
        ("gs://bucket/{a,b}.tar", ["gs://bucket/a.tar", "gs://bucket/b.tar"]),
        ("{SPAN}/{YYYY}-{MM}-{DD}/{VERSION:3}", ["{SPAN}/{YYYY}-{MM}-{DD}/{VERSION:3}"]),
        ("{x}", ["{x}"]),
        ("{}", ["{}"]),
    ],
)
def test_braces(path: str, expanded: list[str]) -> None:
    assert list(expand_braces([path])) == expanded


def test_braces_in_paths(tmp_path: Path) -> None:
    for number in range(3):
        archives.write(tmp_path / f"s-{number:05d}.tar", {f"a/{number}.png": archives.png(number)})
    pattern = f"{tmp_path}/s-{{00000..00002}}.tar"
    assert list(members(read_all(paths=pattern))) == ["a/0.png", "a/1.png", "a/2.png"]
    with pytest.raises(InputError, match=r"s-00003\.tar: no such file"):
        read_all(paths=f"{tmp_path}/s-{{00000..00003}}.tar")
    with pytest.raises(InputError, match="more than 1,000,000 paths"):
        read_all(paths=f"{tmp_path}/s-{{0..9999999}}.tar")
    # A folder may really be called so.
    archives.write(tmp_path / "{a,b}", {"c/1.png": archives.png()})
    assert list(members(read_all(paths=str(tmp_path / "{a,b}")))) == ["c/1.png"]


def test_braces_beside_spans(tmp_path: Path) -> None:
    for day in (1, 2):
        for name in ("x", "y"):
            (tmp_path / f"{day}").mkdir(exist_ok=True)
            archives.write(tmp_path / f"{day}" / f"{name}.zip", {"a/1.png": archives.png(day)})
    config = InputConfig(paths=(f"{tmp_path}/{{SPAN}}/{{x,y}}.zip",))
    resolved = resolve(config)
    assert resolved.span == 2
    assert resolved.config.paths == (f"{tmp_path}/2/x.zip", f"{tmp_path}/2/y.zip")
    assert fingerprint(resolved.config)


@pytest.mark.parametrize("name", [".DS_Store", "README.md", "desktop.ini", "LICENSE", "MD5SUMS"])
def test_files_beside_idx_files_are_ignored(tmp_path: Path, name: str) -> None:
    for split, count in (("train", 3), ("t10k", 2)):
        pixels = archives.pixels(count, 4, 4 * count).reshape(count, 4, 4)
        head = struct.pack(">BBBBIII", 0, 0, 8, 3, count, 4, 4)
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = struct.pack(">BBBBI", 0, 0, 8, 1, count) + bytes(range(count))
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    (tmp_path / name).write_bytes(b"text")
    batches = read_all(paths=str(tmp_path))
    assert sum(len(batch) for batch in batches) == 5
    assert rejects(batches) == {}
    ignored = [batch.ignored for batch in batches if batch.ignored.total()]
    assert [list(each.examples.values()) for each in ignored] == [[[name]]]


def test_members_with_odd_names_are_all_accounted_for(tmp_path: Path) -> None:
    sink = io.BytesIO()
    names = ["/abs/1.png", "../up/2.png", "a\\b\\3.png", "C:/x/4.png", "a//b/5.png", " /6.png"]
    with zipfile.ZipFile(sink, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, archives.png(number))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(names[0], archives.png(9))
    (tmp_path / "a.zip").write_bytes(sink.getvalue())
    batches = read_all(paths=str(tmp_path / "a.zip"))
    assert sum(batch.members for batch in batches) == len(names) + 1
    assert sum(len(batch) for batch in batches) == len(names) + 1


@pytest.mark.parametrize("name", ["tree", "a.zip", "a.tar"])
def test_labels_and_documents_beside_images_are_ignored(tmp_path: Path, name: str) -> None:
    # As annotation tools export them: a file for each image, of which each would be a reject.
    files = archives.classes(2)
    side = {f"{Path(image).with_suffix('')}.xml": b"<annotation/>" for image in files}
    side |= {"classes.txt": b"cat\ndog\n", "cat/README": b"text", "data.yaml": b"names: []"}
    # What looks like an image is judged by its content, later.
    files["cat/torn.png"] = b"text"
    archives.write(tmp_path / name, {**files, **side})
    batches = read_all(paths=str(tmp_path / name))
    assert members(batches).keys() == files.keys()
    assert not rejects(batches)
    ignored = [batch.ignored.counts for batch in batches]
    assert sum(counts["side_file"] for counts in ignored) == len(side)


@pytest.mark.parametrize(
    ("name", "make"), [("a.zip", archives.tar_bytes), ("a.tar", archives.zip_bytes)]
)
def test_an_archive_under_the_suffix_of_another(
    tmp_path: Path, name: str, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    files = archives.classes(2)
    (tmp_path / name).write_bytes(make(files))
    assert members(read_all(paths=str(tmp_path / name))).keys() == files.keys()


def test_archives_of_other_programs_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    with pytest.raises(InputError, match="a 7z archive cannot be read; pack its files as a zip"):
        read_all(paths=str(tmp_path / "a.7z"))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_archives_of_other_programs_under_these_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(600))
    with pytest.raises(InputError, match=f"{name}: a rar archive cannot be read; pack its files"):
        read_all(paths=str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.csv", "a.parquet", "a.tfrecord", "a"])
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS and not the file"),
        (b"\n<!DOCTYPE html><html>Quota", "a web page and not the file; download it again"),
        (b"<?xml version='1.0'?><Error>", "a web page and not the file; download it again"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file cannot be read; save its images as files"),
    ],
)
def test_what_lies_in_place_of_an_archive_is_named(
    tmp_path: Path, name: str, start: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(start + bytes(600))
    with pytest.raises(InputError, match=f"{name}: {message}"):
        read_all(paths=str(tmp_path / name))


@pytest.mark.parametrize(
    ("method", "name"), [(zipfile.ZIP_LZMA, "LZMA"), (zipfile.ZIP_BZIP2, "bzip2")]
)
def test_a_zip_of_another_method_names_it(tmp_path: Path, method: int, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(archives.zip_bytes({"a/1.png": archives.png()}, method))
    (reject,) = (r for batch in read_all(paths=str(tmp_path / "a.zip")) for r in batch.rejects)
    assert reject.detail == f"compressed with {name}; make the zip with Deflate"
