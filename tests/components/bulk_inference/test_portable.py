"""The job on portable runners: Beam's own job service always, Flink where Java and its jar are.

The jar: `mvn dependency:get -Dtransitive=false
-Dartifact=org.apache.beam:beam-runners-flink-1.20-job-server:VERSION`, VERSION being Beam's.
"""

import os
import shutil
from pathlib import Path

import apache_beam
import pytest

from components.bulk_inference.config import EngineConfig
from tests.components.bulk_inference.archives import digits, write_zip
from tests.components.bulk_inference.conftest import ReadTable, RunJob, same_tables

EMBEDDED = ("--runner=PortableRunner", "--job_endpoint=embed")
"""Beam's job service in this process: the portable protocol without Java."""


def flink_jar() -> Path:
    """Where Maven puts the job server of this Beam."""
    name = "beam-runners-flink-1.20-job-server"
    version = apache_beam.__version__
    repository = Path.home() / ".m2" / "repository" / "org" / "apache" / "beam"
    return repository / name / version / f"{name}-{version}.jar"


def test_a_loopback_worker_gives_the_same_table_and_rejects(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    engine = EngineConfig(runner="flink", workers=2, options=EMBEDDED)
    same_tables(engine, tmp_path, run_job, read_table)


@pytest.mark.slow
def test_an_external_worker_pool_gives_the_same_table_and_rejects(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable, worker_pool: str
) -> None:
    same_tables(external(worker_pool), tmp_path, run_job, read_table)


def external(worker_pool: str) -> EngineConfig:
    return EngineConfig(
        runner="flink",
        workers=2,
        environment="EXTERNAL",
        environment_config=worker_pool,
        options=EMBEDDED,
    )


@pytest.mark.slow
def test_relative_paths_mean_the_same_to_workers_in_another_folder(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable, worker_pool: str, model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_zip(tmp_path / "a.zip", digits(20))
    monkeypatch.chdir(tmp_path)
    result = run_job(
        "./a.*", model=os.path.relpath(model), output="out/", engine=external(worker_pool)
    )
    assert result.rows == 20
    table = read_table(tmp_path / "out")
    assert table["source"].unique().to_pylist() == [str(tmp_path / "a.zip")]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="Flink needs Java 17, which is not there")
@pytest.mark.skipif(not flink_jar().exists(), reason=f"Flink's job server: no {flink_jar()}")
def test_flink_gives_the_same_table_and_rejects(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    engine = EngineConfig(runner="flink", workers=2, job_server_jar=str(flink_jar()))
    same_tables(engine, tmp_path, run_job, read_table)
