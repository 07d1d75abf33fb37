"""The job on portable runners: Beam's own job service always, Flink where Java and its jar are.

The jar: `mvn dependency:get -Dtransitive=false
-Dartifact=org.apache.beam:beam-runners-flink-1.20-job-server:VERSION`, VERSION being Beam's.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam
import pytest

from components.bulk_inference.config import EngineConfig
from components.serving_check.server import free_port
from tests.components.bulk_inference.archives import broken, digits, mixed, write_zip
from tests.components.bulk_inference.conftest import ReadTable, RunJob
from tests.limits import HANG_SECS
from tests.numeric import assert_same_table

EMBEDDED = ("--runner=PortableRunner", "--job_endpoint=embed")
"""Beam's job service in this process: the portable protocol without Java."""


def flink_jar() -> Path:
    """Where Maven puts the job server of this Beam."""
    name = "beam-runners-flink-1.20-job-server"
    version = apache_beam.__version__
    repository = Path.home() / ".m2" / "repository" / "org" / "apache" / "beam"
    return repository / name / version / f"{name}-{version}.jar"


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


def test_a_loopback_worker_gives_the_same_table_and_rejects(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    engine = EngineConfig(runner="flink", workers=2, options=EMBEDDED)
    same_tables(engine, tmp_path, run_job, read_table)


@pytest.fixture
def worker_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An external worker pool, as it stands beside a task manager; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"]
    # The pool starts its workers as `python`, whichever that is on its PATH.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PATH": path}
    # In another folder than the job's, as on the machines of a cluster.
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    # In a session of its own, so that the workers that it starts end with it.
    pool = subprocess.Popen(
        [*command, f"--service_port={port}"],
        env=environment,
        cwd=elsewhere,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + HANG_SECS
        while not is_open(port):
            assert pool.poll() is None, "the worker pool did not start"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"localhost:{port}"
    finally:
        os.killpg(pool.pid, signal.SIGKILL)
        pool.wait()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


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
