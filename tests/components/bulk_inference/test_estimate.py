"""Dry runs: a sample of all parts of an archive, of which nothing stays."""

import gzip
import io
import struct
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest

from components.bulk_inference.annotation import handler
from components.bulk_inference.config import BatchConfig
from components.bulk_inference.planning import estimate
from tests.components.bulk_inference.archives import broken, digits, noise, png, write_zip
from tests.components.bulk_inference.conftest import RunJob
from trainer.errors import InputError


def test_a_dry_run_estimates_and_writes_nothing(tmp_path: Path, run_job: RunJob) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(100) | broken())
    result = run_job(archive, dry_run=True)
    assert not (tmp_path / "out").exists()
    assert result.estimate is not None
    assert (result.estimate["members"], result.estimate["rows"]) == (107, 100)
    real = run_job(archive)
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*/*/*"))
    assert result.estimate["output_bytes"] == pytest.approx(written, rel=0.3)
    assert real.rows == 100


def test_units_that_leave_copies_out_are_known_as_done(tmp_path: Path, run_job: RunJob) -> None:
    members = digits(20)
    archive = write_zip(tmp_path / "a.zip", members | {"copy.png": next(iter(members.values()))})
    assert run_job(archive, duplicates="drop").duplicates == 1
    more = write_zip(tmp_path / "b.zip", digits(1, 30))
    for archives, todo in (((archive,), 0), ((archive, more), 1)):
        found = run_job(*archives, duplicates="drop", dry_run=True)
        assert found.notes == [f"dry run: 2 of {2 + todo} units are done"]
        assert found.estimate is not None
        assert (found.estimate["units"], found.estimate["members"]) == (todo, todo)


@pytest.fixture
def small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets 32 members of a unit be enough on one core."""
    monkeypatch.setattr(estimate, "_MOST_PER_THREAD", 16)


def parts_of_three_kinds() -> dict[str, bytes]:
    """400 small images, 200 files that are none, and 200 large images."""
    large = [png(pixels) for pixels in noise(4, (200, 200, 3))]
    small = digits(400)
    junk = {f"junk/{place:03d}.png": b"no image" for place in range(200)}
    return small | junk | {f"large/{place:03d}.png": large[place % 4] for place in range(200)}


@pytest.mark.usefixtures("small_heads")
def test_the_sample_is_from_all_parts_of_an_archive(tmp_path: Path, run_job: RunJob) -> None:
    archive = write_zip(tmp_path / "a.zip", parts_of_three_kinds())
    found = run_job(archive, units=100, dry_run=True, engine={"workers": 1}).estimate
    assert found is not None
    assert (found["units"], found["sampled_units"]) == (8, 8)
    assert found["sampled"] < 800 / 2
    assert (found["members"], found["rows"], found["rejects"]) == (800, 600, 200)


@pytest.mark.usefixtures("small_heads")
def test_members_of_a_tar_are_counted(tmp_path: Path, run_job: RunJob) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in digits(300).items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    found = run_job(path, dry_run=True, engine={"workers": 1}).estimate
    assert found is not None
    assert found["sampled"] < 300
    assert (found["members"], found["rows"]) == (300, 300)


def test_a_dry_run_leaves_the_size_of_model_calls(
    tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "_LOADED", {})
    run_job(write_zip(tmp_path / "a.zip", digits(40)), dry_run=True)
    (annotator,) = handler._LOADED.values()
    assert annotator.batch_limit == BatchConfig().max_images


def test_an_unreadable_archive_is_named(tmp_path: Path, run_job: RunJob) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = gzip.compress(struct.pack(">4I", 0x803, 2_000, 8, 8) + bytes(range(64)) * 2_000)
    # A sample need not reach the end.
    path.write_bytes(whole[:64])
    with pytest.raises(InputError) as real:
        run_job(path)
    with pytest.raises(InputError) as dry:
        run_job(path, dry_run=True)
    assert str(dry.value) == str(real.value)
    assert str(dry.value).startswith(f"{path}: damaged or cut short")


@pytest.mark.parametrize("count", [1, 2, 5, 24, 25, 1_000])
@pytest.mark.parametrize("most", [1, 7, 24])
def test_places_are_spread_however_early_one_stops(count: int, most: int) -> None:
    places = estimate.spread(count, most)
    assert len(places) == len(set(places)) == min(count, most)
    assert all(0 <= place < count for place in places)
    for taken in range(1, len(places) + 1):
        ends = [0, *sorted(places[:taken]), count]
        widest = max(stop - start for start, stop in pairwise(ends))
        assert widest <= 2 + 2.5 * count / taken
