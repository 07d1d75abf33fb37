"""Spans are resolved as TFX does, and the fingerprint notices every change."""

import os
import zipfile
from pathlib import Path

import pytest

from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.spans import resolve
from tests import archives
from trainer.errors import InputError


def config_of(*paths: object, latest: int = 1) -> InputConfig:
    return InputConfig.model_validate(
        {"paths": tuple(map(str, paths)), "spans": {"latest": latest}}
    )


def test_latest_spans(tmp_path: Path) -> None:
    for span in (1, 2, 10):
        archives.write_folder(tmp_path / f"span-{span}", {"a/1.png": archives.png(span)})
    pattern = tmp_path / "span-{SPAN}"
    one = resolve(config_of(pattern))
    assert (one.config.paths, one.span, one.version) == ((f"{tmp_path}/span-10",), 10, None)
    two = resolve(config_of(pattern, latest=2))
    assert two.config.paths == (f"{tmp_path}/span-2", f"{tmp_path}/span-10")
    assert resolve(two.config).config.paths == two.config.paths


def test_dates_versions_and_what_follows(tmp_path: Path) -> None:
    for name in ("2024-01-31/v1", "2024-02-01/v1", "2024-02-01/v2", "2024-02-30/v9", "x/v1"):
        archives.write_folder(tmp_path / name, {"a.zip": archives.zip_bytes({})})
    resolved = resolve(config_of(tmp_path / "{YYYY}-{MM}-{DD}" / "v{VERSION}" / "*.zip", latest=5))
    assert resolved.config.paths == (
        f"{tmp_path}/2024-01-31/v1/*.zip",
        f"{tmp_path}/2024-02-01/v2/*.zip",
    )
    # Days since 1970-01-01, as in TFX.
    assert (resolved.span, resolved.version) == (19754, 2)


def test_all_paths_of_a_span_are_read(tmp_path: Path) -> None:
    names = ("cats-7-v1", "cats-7-v2", "dogs-7-v2", "dogs-6-v1", "cats-6-v1")
    for name in names:
        (tmp_path / name).mkdir()
    resolved = resolve(config_of(tmp_path / "*-{SPAN}-v{VERSION}", latest=2))
    assert resolved.config.paths == tuple(
        f"{tmp_path}/{name}" for name in ("cats-6-v1", "dogs-6-v1", "cats-7-v2", "dogs-7-v2")
    )


def test_width_and_common_spans(tmp_path: Path) -> None:
    for name in ("a-01", "a-02", "a-003", "b-01"):
        (tmp_path / name).mkdir()
    resolved = resolve(config_of(tmp_path / "a-{SPAN:2}", tmp_path / "b-{SPAN:2}", tmp_path))
    assert resolved.config.paths == (f"{tmp_path}/a-01", f"{tmp_path}/b-01", str(tmp_path))
    (tmp_path / "b-01").rename(tmp_path / "b-09")
    with pytest.raises(InputError, match="no span that all of these paths have"):
        resolve(config_of(tmp_path / "a-{SPAN:2}", tmp_path / "b-{SPAN:2}"))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{SPAN}/{SPAN}", "a span mark is given twice"),
        ("{SPAN}/{YYYY}-{MM}-{DD}", "use either"),
        ("{YYYY}-{MM}", "use either"),
        ("{VERSION}", "needs {SPAN} or a date"),
        ("none-{SPAN}", "nothing matches"),
        ("x{SPAN}", "no span matches"),
    ],
)
def test_wrong_patterns(tmp_path: Path, pattern: str, message: str) -> None:
    (tmp_path / "xyz").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        resolve(config_of(tmp_path / pattern))
    assert str(caught.value).startswith(f"{tmp_path / pattern}: ")


def test_fingerprint_of_a_zip_is_its_content(tmp_path: Path) -> None:
    files = archives.classes()
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    before = fingerprint(config_of(path))
    status = path.stat()
    os.utime(path, ns=(1, 1))
    assert fingerprint(config_of(path)) == before
    # One image is changed; size and time of the archive stay.
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            changed = data[:-1] + b"\x81" if name == "cat/0.png" else data
            archive.writestr(zipfile.ZipInfo(name), changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert fingerprint(config_of(path)) != before


@pytest.mark.parametrize("name", ["tree", "a.tar", "m.csv", "x.tfrecord"])
def test_fingerprint_notices_a_change_behind_size_and_time(tmp_path: Path, name: str) -> None:
    files = archives.classes()
    if name == "x.tfrecord":
        path = tmp_path / name
        path.write_bytes(archives.tfrecord_bytes([b"a" * 100]))
    else:
        path = archives.write(tmp_path / name, files)
    before = fingerprint(config_of(path))
    assert fingerprint(config_of(path)) == before
    changed = {"tree": path / "cat/0.png", "m.csv": tmp_path / "files/cat/0.png"}.get(name, path)
    status = changed.stat()
    content = bytearray(changed.read_bytes())
    content[600 if name == "a.tar" else 60] ^= 1
    changed.write_bytes(content)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(config_of(path)) != before


def test_fingerprint_notices_files_that_come_and_go(tmp_path: Path) -> None:
    root = archives.write(tmp_path / "tree", archives.classes())
    before = fingerprint(config_of(root))
    (root / "cat/0.png").rename(root / "cat/x.png")
    renamed = fingerprint(config_of(root))
    (root / "cat/x.png").unlink()
    assert len({before, renamed, fingerprint(config_of(root))}) == 3
    with pytest.raises(InputError, match="no such file or folder"):
        fingerprint(config_of(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["tree", "tree/m.csv"])
def test_images_that_were_moved_are_no_new_input(tmp_path: Path, name: str) -> None:
    root = archives.write_folder(tmp_path / "old/tree", {"cat/0.png": archives.png()})
    (root / "m.csv").write_text("path,label\ncat/0.png,cat\n")
    before = fingerprint(config_of(tmp_path / "old" / name))
    (tmp_path / "old").rename(tmp_path / "new")
    assert fingerprint(config_of(tmp_path / "new" / name)) == before
