"""Fixtures of the bulk job's tests: a way to run jobs on the small model, and to read tables."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from components.bulk_inference.config import BulkConfig, EngineConfig
from components.bulk_inference.job import BulkResult, run_bulk
from components.bulk_inference.running.progress import BulkProgress
from components.image_sources.config import InputConfig, UnitsConfig
from tests import engine_servers
from tests.components.bulk_inference.archives import broken, digits, mixed, write_zip
from tests.numeric import assert_same_table

RunJob = Callable[..., BulkResult]
ReadTable = Callable[..., pa.Table]


@pytest.fixture
def run_job(model: Path, tmp_path: Path) -> RunJob:
    """Runs a job over archives into `tmp_path / "out"`, in units of 16 members."""

    def run(
        *archives: Path | str,
        units: int = 16,
        source_batch: int = 8,
        progress: Callable[[BulkProgress], None] | None = None,
        **options: Any,
    ) -> BulkResult:
        inputs = InputConfig(
            paths=tuple(map(str, archives)), units=UnitsConfig(members=units, batch=source_batch)
        )
        settings = {"model": str(model), "output": str(tmp_path / "out"), "input": inputs}
        return run_bulk(BulkConfig(**{**settings, **options}), progress)

    return run


@pytest.fixture
def read_table() -> ReadTable:
    """Reads the table, or another part, of an output in the order of its files."""

    def read(output: Path, part: str = "table") -> pa.Table:
        files = sorted(map(str, (output / part).rglob("*.parquet")))
        return ds.dataset(files, format="parquet").to_table().combine_chunks()

    return read


@pytest.fixture
def worker_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An external worker pool; gives its address."""
    # In another folder than the job's, as on the machines of a cluster.
    with engine_servers.worker_pool(tmp_path_factory.mktemp("elsewhere")) as address:
        yield address


def same_tables(
    engine: EngineConfig, tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    """Runs an archive with every defect on the local runner and on another one."""
    archive = write_zip(tmp_path / "a.zip", digits(100) | broken() | mixed(3))
    local = run_job(archive)
    other = run_job(archive, output=str(tmp_path / "other"), engine=engine)
    assert (other.members, other.rows, other.reasons) == (local.members, local.rows, local.reasons)
    for part in ("table", "rejects"):
        expected = read_table(tmp_path / "out", part)
        assert_same_table(read_table(tmp_path / "other", part), expected)
