"""A whole run whose Beam steps, and the labelling at its end, are jobs of a Prism."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pyarrow.dataset as ds
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from pipeline.digits import write_digits
from tests import engine_servers
from tests.limits import HANG_SECS

ROOT = Path(__file__).resolve().parents[2]
NO_PRISM = engine_servers.why_no_prism()
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(NO_PRISM), reason=NO_PRISM)]


def jobs_of(prism: str) -> list[str]:
    """The state of each job that a Prism has had."""
    with grpc.insecure_channel(prism) as channel:
        stub = beam_job_api_pb2_grpc.JobServiceStub(channel)
        answer = stub.GetJobs(beam_job_api_pb2.GetJobsRequest())
    return [beam_job_api_pb2.JobState.Enum.Name(job.state) for job in answer.job_info]


def test_a_run_on_prism_pushes_a_model_that_labels_on_prism(tmp_path: Path) -> None:
    archives = write_digits(tmp_path / "archives")
    with engine_servers.prism() as prism:
        settings = [
            f"beam.args=[--runner=PrismRunner, --job_endpoint={prism}, --sdk_container_image=none]",
            "trainer.epochs=2",
            "evaluation={min_accuracy: 0, min_class_recall: 0}",
            "bulk.in_pipeline=true",
            f"bulk.input={{paths: ['{archives.held_out}']}}",
            f"bulk.engine={{runner: prism, master: '{prism}', workers: 2}}",
        ]
        command = [sys.executable, "-m", "pipeline.cli", "run", "--config", "digits", "--json"]
        command += ["--root", str(tmp_path)]
        done = subprocess.run(
            [*command, *(part for each in settings for part in ("--set", each))],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=HANG_SECS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # Ingest, statistics, Transform, evaluation, labels.
        assert jobs_of(prism) == ["DONE"] * 5
    result = json.loads(done.stdout)
    assert (Path(result["pushed"]) / "saved_model.pb").is_file()
    table = ds.dataset(Path(result["labelled"]) / "table", format="parquet").to_table()
    assert table.num_rows == 359
