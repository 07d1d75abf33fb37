"""The engine for units of work: slices, order, and one key and digest for ingest and bulk jobs."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource
from components.unit_engine import work_through
from tests import archives
from tests.components.test_image_example_gen import read_records, run
from trainer.data import features
from trainer.errors import InputError

Found = tuple[dict[str, str], set[str]]


def batch_of(sizes: list[int]) -> MemberBatch:
    batch = MemberBatch("a.zip", start=5)
    for at, size in enumerate(sizes):
        batch.add(f"{at}.png", b"x" * size, f"label {at % 3}", "train")
    batch.refuse("broken.png", "unreadable", "")
    batch.ignore("notes.txt", "side_file")
    return batch


@given(
    st.lists(st.integers(0, 40), max_size=30), st.integers(1, 8), st.integers(1, 60), st.booleans()
)
def test_slices_hold_every_member_once(
    sizes: list[int], most: int, most_bytes: int, of_pixels: bool
) -> None:
    batch = batch_of(sizes)
    batch.identity = [f"{at}".encode() for at in range(len(sizes))] if of_pixels else None
    slices = list(batch.slices(most, most_bytes))
    assert [key for part in slices for key in part.keys] == batch.keys
    assert [digest for part in slices for digest in part.digests()] == batch.digests()
    assert [label for part in slices for label in part.labels] == batch.labels
    starts = np.cumsum([5, *map(len, slices)])[:-1].tolist()
    assert [part.start for part in slices] == starts
    assert sum(part.members for part in slices) == batch.members
    assert all(len(part) <= most for part in slices)
    assert all(sum(map(len, part.data[:-1])) < most_bytes for part in slices)


class ThreeBatches(ImageSource):
    """Three batches of four members; optionally the archive ends after the second."""

    def __init__(self, *, is_damaged: bool = False) -> None:
        self.is_damaged = is_damaged

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        for number in range(3):
            if self.is_damaged and number == 2:
                raise InputError("a.zip: damaged")
            batch = MemberBatch("a.zip")
            for at in range(4):
                batch.add(f"{number}{at}", b"x", None, None)
            yield batch


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_source_order(threads: int) -> None:
    def work(batch: MemberBatch) -> list[str]:
        # The first slice takes longest.
        threading.Event().wait(0.05 if batch.names[0] == "00" else 0)
        return batch.names

    unit = WorkUnit(0, "a.zip", "zip")
    results = work_through(ThreeBatches(), unit, work, threads=threads, most=2)
    assert [name for names in results for name in names] == [
        f"{number}{at}" for number in range(3) for at in range(4)
    ]


def test_what_was_read_before_damage_is_not_yielded_as_whole() -> None:
    unit = WorkUnit(0, "a.zip", "zip")
    source = ThreeBatches(is_damaged=True)
    with pytest.raises(InputError, match="damaged"):
        list(work_through(source, unit, len, threads=2, most=2))


def write_source(folder: Path, name: str) -> str:
    """Forty images and, except in IDX files, two entries that are none."""
    if name.startswith("train"):
        images = np.random.default_rng(0).integers(0, 256, (40, 9, 9), np.uint8)
        return str(archives.write_idx(folder, "train", images, [0, 1] * 20, pack=True))
    files = {f"{'ab'[at % 2]}/{at}.png": archives.png(at) for at in range(40)}
    files |= {"a/broken.png": files["a/0.png"][:40], "b/empty.png": b""}
    return str(archives.write(folder / name, files))


def ingested(source: str, output: Path) -> Found:
    run(output, paths=source, max_rejected_share=0.9)
    records = [record for rows in read_records(output).values() for record in rows]
    keys = {
        record[features.FILENAME][0].decode(): record[features.SHA256][0].decode()
        for record in records
    }
    return keys, set(pq.read_table(output / "rejects.parquet")["key"].to_pylist())


def annotated(source: str, output: Path, model: Path) -> Found:
    inputs = InputConfig(paths=(source,))
    job = BulkConfig(input=inputs, model=str(model), output=str(output), max_rejected_share=0.9)
    run_bulk(job)

    def read(part: str) -> pa.Table:
        return ds.dataset(sorted(map(str, (output / part).rglob("*.parquet")))).to_table()

    table = read("table")
    keys = dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))
    rejects = set(read("rejects")["key"].to_pylist()) if (output / "rejects").exists() else set()
    return keys, rejects


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "tree", "list.csv", "train-images"])
def test_an_image_has_one_key_and_one_digest_everywhere(
    name: str, tmp_path: Path, model: Path
) -> None:
    source = write_source(tmp_path, name)
    keys, rejects = ingested(source, tmp_path / "examples")
    assert len(keys) == 40
    assert (keys, rejects) == annotated(source, tmp_path / "table", model)
    assert len(rejects) == (0 if name == "train-images" else 2)
