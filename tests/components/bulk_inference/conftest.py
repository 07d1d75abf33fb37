"""Fixtures of the bulk job's tests: a small model, and a way to run jobs on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import BulkResult, run_bulk
from components.image_sources.config import InputConfig, UnitsConfig
from tests.components.bulk_inference.model_fixture import export_model

RunJob = Callable[..., BulkResult]
ReadTable = Callable[..., pa.Table]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey 8 x 8 model of ten classes."""
    return export_model(tmp_path_factory.mktemp("model") / "1")


@pytest.fixture
def run_job(model: Path, tmp_path: Path) -> RunJob:
    """Runs a job over archives into `tmp_path / "out"`, in units of 16 members."""

    def run(
        *archives: Path | str, units: int = 16, source_batch: int = 8, **options: Any
    ) -> BulkResult:
        inputs = InputConfig(
            paths=tuple(map(str, archives)), units=UnitsConfig(members=units, batch=source_batch)
        )
        settings = {"model": str(model), "output": str(tmp_path / "out"), "input": inputs}
        return run_bulk(BulkConfig(**{**settings, **options}))

    return run


@pytest.fixture
def read_table() -> ReadTable:
    """Reads the table, or another part, of an output in the order of its files."""

    def read(output: Path, part: str = "table") -> pa.Table:
        files = sorted(map(str, (output / part).rglob("*.parquet")))
        return ds.dataset(files, format="parquet").to_table().combine_chunks()

    return read
