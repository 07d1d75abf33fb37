"""The job on Prism, Beam's own portable runner, where its binary is."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from components.bulk_inference.config import EngineConfig
from components.bulk_inference.output.ledger import Ledger
from components.bulk_inference.running import progress
from components.bulk_inference.running.counters import read_counters
from components.bulk_inference.running.progress import BulkProgress
from tests import engine_servers
from tests.components.bulk_inference.archives import broken, digits, write_zip
from tests.components.bulk_inference.conftest import ReadTable, RunJob, same_tables
from tests.components.bulk_inference.killed_jobs import (
    after_the_first_unit,
    files_of,
    killed_at_many_moments,
)
from tests.numeric import assert_same_table

NO_PRISM = engine_servers.why_no_prism()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(NO_PRISM), reason=NO_PRISM)]


@pytest.fixture(scope="module")
def prism() -> Iterator[str]:
    with engine_servers.prism() as address:
        yield address


def test_a_prism_of_the_job_gives_the_same_table_and_rejects(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    location = f"--prism_location={engine_servers.prism_binary()}"
    engine = EngineConfig(runner="prism", workers=2, options=(location,))
    same_tables(engine, tmp_path, run_job, read_table)


def external(prism: str, worker_pool: str) -> EngineConfig:
    return EngineConfig(
        runner="prism",
        master=prism,
        workers=2,
        environment="EXTERNAL",
        environment_config=worker_pool,
    )


def test_a_running_prism_and_a_worker_pool_give_the_same_table_and_rejects(
    prism: str, worker_pool: str, tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    same_tables(external(prism, worker_pool), tmp_path, run_job, read_table)


def test_counters_of_workers_elsewhere_are_told_while_they_work(
    prism: str, worker_pool: str, tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(1000) | broken())
    told: list[dict[str, int]] = []

    def remember(outcome: object) -> dict[str, int]:
        told.append(read_counters(outcome))
        return told[-1]

    monkeypatch.setattr(progress, "read_counters", remember)
    monkeypatch.setattr(progress, "_RECORDS_PERIOD_SECS", 0.05)
    shown: list[BulkProgress] = []
    result = run_job(archive, engine=external(prism, worker_pool), progress=shown.append)
    # Equal to the records, otherwise there would be a note.
    assert (result.notes, told[-1]["members"], told[-1]["units"]) == ([], 1007, 63)
    assert (shown[-1].members, shown[-1].total, shown[-1].rejects) == (1007, 1007, 7)
    assert any(0 < event.members < 1007 for event in shown)


def test_a_lost_worker_ends_the_job_which_then_resumes(
    prism: str, worker_pool: str, tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(1000) | broken())
    run_job(archive)
    ledger = Ledger(str(tmp_path / "other"))
    engine = external(prism, worker_pool)

    def kill() -> None:
        for process in psutil.Process().children(recursive=True):
            if any("SdkHarness" in part for part in process.cmdline()):
                process.kill()

    with (
        after_the_first_unit(ledger, kill),
        pytest.raises(RuntimeError, match="SDK worker disconnected"),
    ):
        run_job(archive, output=ledger.output, engine=engine)
    resumed = run_job(archive, output=ledger.output, engine=engine)
    assert 0 < resumed.units_done_now < resumed.units == 63
    assert files_of(tmp_path / "other") == files_of(tmp_path / "out")
    for part in ("table", "rejects"):
        expected = read_table(tmp_path / "out", part)
        assert_same_table(read_table(tmp_path / "other", part), expected)


def test_killed_at_many_moments_on_prism(
    prism: str, tmp_path: Path, model: Path, read_table: ReadTable
) -> None:
    engine = EngineConfig(runner="prism", master=prism, workers=2)
    killed_at_many_moments(engine, tmp_path, model, read_table, kills=4)
