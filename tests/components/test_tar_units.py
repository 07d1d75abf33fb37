"""A tar on this machine is divided into units, which read their own members and no others."""

import gzip
import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.bulk_inference.annotation import unit as annotation
from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.image_sources import tar, tar_stream
from components.image_sources.base import WorkUnit
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource
from components.image_sources.tar_index import TarIndex
from components.image_sources.tar_stream import BLOCK
from tests import archives
from tests.components.bulk_inference.archives import digits
from trainer.errors import InputError

Row = tuple[str, bytes, str | None]


def source_of(path: Path, members: int = 5, max_bytes: int = 1 << 20) -> ImageSource:
    units = {"members": members, "max_bytes": max_bytes, "batch": 3}
    return ImageSource(InputConfig.model_validate({"paths": str(path), "units": units}))


def rows_of(source: ImageSource, unit: WorkUnit) -> tuple[list[Row], int]:
    """The images of a unit, and the number of its entries."""
    batches = list(source.read(unit))
    rows = [
        row for batch in batches for row in zip(batch.names, batch.data, batch.labels, strict=True)
    ]
    return rows, sum(batch.members for batch in batches)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.lists(st.sampled_from([1, 511, 512, 513, 2000]), min_size=1, max_size=17),
    st.integers(1, 6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]),
    st.booleans(),
)
def test_units_hold_every_member_once(
    tmp_path: Path, sizes: list[int], members: int, tar_format: int, long_names: bool
) -> None:
    deep = "d" * 60 + "/" + "e" * 60 if long_names else "d"
    files = {f"{deep}/ö{at}.png": bytes([at + 1]) * size for at, size in enumerate(sizes)}
    if tar_format == tarfile.USTAR_FORMAT:
        files = {name.replace("ö", "o"): data for name, data in files.items()}
    path = tmp_path / "a.tar"
    path.write_bytes(archives.tar_bytes(files, tar_format))
    source = source_of(path, members)
    units = list(source.units())
    assert len(units) == -(-len(files) // members)
    assert [unit.index for unit in units] == list(range(len(units)))
    assert all(unit.start == before.stop for before, unit in itertools.pairwise(units))
    found = []
    for unit in units:
        rows, entries = rows_of(source, unit)
        assert unit.members == entries
        found += rows
    assert [(name, data) for name, data, _ in found] == list(files.items())


def test_units_are_bounded_by_bytes(tmp_path: Path) -> None:
    files = {f"{at}.png": b"x" * 10_000 for at in range(9)}
    path = archives.write(tmp_path / "a.tar", files)
    units = list(source_of(path, members=1_000, max_bytes=30_000).units())
    assert [unit.members for unit in units] == [3, 3, 3]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.zst"])
def test_a_compressed_tar_is_one_unit(tmp_path: Path, name: str) -> None:
    path = archives.write(tmp_path / name, archives.classes(6))
    (unit,) = source_of(path).units()
    assert (unit.start, unit.stop, unit.members) == (0, -1, -1)


def test_joined_archives_are_divided_as_one(tmp_path: Path) -> None:
    first, second = (
        archives.classes(3),
        {"new/9.png": archives.png(9), "new/8.png": archives.png(8)},
    )
    path = tmp_path / "a.tar"
    path.write_bytes(archives.tar_bytes(first) + archives.tar_bytes(second))
    source = source_of(path, members=3)  # a unit ends where the first archive does
    rows = [row for unit in source.units() for row in rows_of(source, unit)[0]]
    assert [name for name, _, _ in rows] == [*first, *second]
    assert [label for _, _, label in rows] == [name.split("/")[0] for name in (*first, *second)]


def test_members_that_are_no_images_count_once(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("cat", tarfile.DIRTYPE), ("cat/link.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
        for name in ("cat/.hidden", "cat/1.png", "cat/2.png"):
            data = archives.png(3)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, archives.io.BytesIO(data))
    source = source_of(path, members=2)
    units = list(source.units())
    assert [unit.members for unit in units] == [2, 2, 1]
    assert [rows_of(source, unit)[1] for unit in units] == [2, 2, 1]


@pytest.mark.parametrize("place", [0.3, 0.9])
def test_a_damaged_tar_is_refused_before_any_unit_is_read(tmp_path: Path, place: float) -> None:
    path = archives.write(tmp_path / "a.tar", archives.classes(10))
    content = bytearray(path.read_bytes())
    headers = [
        at for at in range(0, len(content), BLOCK) if content[at + 257 : at + 262] == b"ustar"
    ]
    at = headers[int(place * len(headers))]
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.tar: damaged after member \d+; copy it again"):
        list(source_of(path).units())
    path.write_bytes(content[: at + 100])
    with pytest.raises(InputError, match=r"a\.tar: cut short after"):
        list(source_of(path).units())


def test_a_stopped_job_reads_only_what_is_missing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archives.write(tmp_path / "a.tar", digits(60))
    config = BulkConfig.model_validate(
        {
            "model": str(model),
            "output": str(tmp_path / "out"),
            "input": {"paths": str(path), "units": {"members": 10, "batch": 5}},
        }
    )
    whole = annotation.annotate_unit
    done: list[str] = []

    def stop_after_four(planned, spec, counts=None):  # type: ignore[no-untyped-def]
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(planned.name)
        return whole(planned, spec, counts)

    target = "components.bulk_inference.annotation.transforms.annotate_unit"
    monkeypatch.setattr(target, stop_after_four)
    with pytest.raises(BaseException):  # noqa: B017, PT011 (Beam raises another one)
        run_bulk(config)
    monkeypatch.setattr(target, whole)
    result = run_bulk(config)
    assert result.units == 6
    assert 0 < result.units_done_now < 6
    assert result.members_done_now == 10 * result.units_done_now
    assert result.rows == 60


def indexed(path: Path, folder: Path, members: int = 20, max_bytes: int = 1 << 18) -> ImageSource:
    units = {"members": members, "max_bytes": max_bytes, "batch": 7}
    config = InputConfig.model_validate({"paths": str(path), "units": units})
    return ImageSource(config, TarIndex(str(folder)))


def write_packed(path: Path, count: int = 300) -> dict[str, bytes]:
    """A tar of incompressible files; of zstd in frames, as `pzstd` writes them."""
    noise = np.random.default_rng(3)
    files = {f"cat/{at}.png": noise.bytes(3_000 + at) for at in range(count)}
    content = archives.tar_bytes(files)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content, 1))
    else:
        parts = [content[at : at + 50_000] for at in range(0, len(content), 50_000)]
        skippable = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
        path.write_bytes(skippable + b"".join(map(zstandard.compress, parts)))
    return files


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.zst", "a.tar"])
def test_an_index_divides_a_tar_and_is_used_again(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    if name.endswith("gz"):
        pytest.importorskip("indexed_gzip")
    files = write_packed(path) if name != "a.tar" else archives.classes(40)
    if name == "a.tar":
        archives.write(path, files)
    source = indexed(path, tmp_path / "index")
    units = list(source.units())
    assert len(units) > 4
    assert all(unit.start == before.stop for before, unit in itertools.pairwise(units))
    found: list[Row] = []
    for unit in reversed(units):
        rows, entries = rows_of(source, unit)
        assert unit.members == entries
        found[:0] = rows
    assert [(name, data) for name, data, _ in found] == list(files.items())
    assert not [left for left in tmp_path.iterdir() if left not in (path, tmp_path / "index")]

    monkeypatch.setattr(tar_stream, "headers", None)
    again = indexed(path, tmp_path / "index")
    assert list(again.units()) == units
    assert [again.version(unit) for unit in units] == [
        indexed(path, tmp_path / "elsewhere").version(unit) for unit in units
    ]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.zst"])
def test_an_index_of_another_archive_is_made_anew(tmp_path: Path, name: str) -> None:
    if name.endswith("gz"):
        pytest.importorskip("indexed_gzip")
    path, folder = tmp_path / name, tmp_path / "index"
    write_packed(path)
    units = list(indexed(path, folder).units())
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    assert list(indexed(path, folder).units()) == units
    before = {file.name for file in folder.iterdir()}
    files = write_packed(path, 150)
    source = indexed(path, folder)
    rows = [row for unit in source.units() for row in rows_of(source, unit)[0]]
    assert [(name, data) for name, data, _ in rows] == list(files.items())
    after = {file.name for file in folder.iterdir()}
    assert len(after) == len(before)
    assert not after & before


def test_what_cannot_be_entered_is_one_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="vaeline.progress")
    single = tmp_path / "single.tar.zst"
    content = archives.tar_bytes({f"{at}.png": bytes(9_000) for at in range(60)})
    single.write_bytes(zstandard.compress(content))
    (unit,) = indexed(single, tmp_path / "index", max_bytes=600).units()
    assert unit == WorkUnit(0, str(single), "tar")

    packed = tmp_path / "a.tar.gz"
    write_packed(packed)
    dry = InputConfig.model_validate({"paths": str(packed), "units": {"max_bytes": 1 << 18}})
    (unit,) = ImageSource(dry, TarIndex(str(tmp_path / "dry"), writable=False)).units()
    assert not (tmp_path / "dry").exists()
    monkeypatch.setattr(tar, "gzip_is_indexed", lambda: False)
    (unit,) = indexed(packed, tmp_path / "index").units()
    assert unit == WorkUnit(0, str(packed), "tar")
    assert "pip install 'vaeline[gzip]'" in caplog.messages[-1]

    # A damaged archive fails where it is read, as without an index.
    cut = tmp_path / "cut.tar.zst"
    write_packed(cut)
    cut.write_bytes(cut.read_bytes()[:-2_000])
    source = indexed(cut, tmp_path / "index")
    (unit,) = source.units()
    with pytest.raises(InputError, match=r"cut\.tar\.zst: cut short"):
        rows_of(source, unit)
