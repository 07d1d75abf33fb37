"""The job on Dask: a scheduler and two worker processes, one of which may be killed."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from components.bulk_inference.config import EngineConfig
from components.bulk_inference.output.ledger import Ledger
from components.bulk_inference.running.dask_cluster import look_at_workers
from components.bulk_inference.running.engines import choose_engine
from components.bulk_inference.running.progress import BulkProgress
from tests import engine_servers
from tests.components.bulk_inference.archives import broken, digits, write_zip
from tests.components.bulk_inference.conftest import ReadTable, RunJob, same_tables
from tests.components.bulk_inference.killed_jobs import after_the_first_unit, files_of
from tests.engine_servers import DaskCluster
from tests.numeric import assert_same_table
from trainer.errors import InputError
from trainer.storage.failures import OutputError

pytest.importorskip("distributed", reason="Dask is not installed: pip install '.[dask]'")
from apache_beam.runners.dask.dask_runner import DaskOptions

RUNNER = "components.bulk_inference.running.dask_runner.LinearDaskRunner"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """In another folder than the job's, as on the machines of a cluster.

    The last test kills one of its workers.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    with engine_servers.dask_cluster(folder, forked=True) as started:
        yield started


def test_units_are_given_out_one_by_one() -> None:
    engine = choose_engine(EngineConfig(runner="dask", master="tcp://s:8786", workers=4), units=9)
    options = engine.options.view_as(DaskOptions)
    assert (options.address, options.partition_size, options.npartitions) == (
        "tcp://s:8786", 1, None
    )  # fmt: skip
    assert engine.options.view_as(StandardOptions).runner == RUNNER
    assert (engine.workers, engine.in_process) == (4, False)


@pytest.mark.slow
def test_two_workers_give_the_same_table_and_rejects(
    cluster: DaskCluster, tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    engine = EngineConfig(runner="dask", master=cluster.address)
    same_tables(engine, tmp_path, run_job, read_table)
    copies = write_zip(tmp_path / "b.zip", {f"copy_{n}": d for n, d in digits(40).items()})
    both = (tmp_path / "a.zip", copies)
    dropped = run_job(*both, output=str(tmp_path / "d"), engine=engine, duplicates="drop")
    assert (dropped.members, dropped.rows) == (161, 114)


def test_a_cluster_that_cannot_do_the_job_is_refused(tmp_path: Path, run_job: RunJob) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(2))
    with engine_servers.dask_cluster(tmp_path, workers=0) as cluster:
        engine = EngineConfig(runner="dask", master=cluster.address)
        with pytest.raises(InputError, match="has no workers; start one on each machine with"):
            run_job(archive, engine=engine)
    assert not (tmp_path / "out" / "_job.json").exists()


def _fail(number: int) -> None:
    raise OutputError("/out", f"no room for {number}")


def test_workers_tell_their_cores_their_files_and_their_errors(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    found = look_at_workers(cluster.address, [str(tmp_path), "/no/model"])
    # Each has a core of its own.
    assert [(worker.cores, worker.missing) for worker in found] == [(1, ("/no/model",))] * 2
    options = PipelineOptions([f"--runner={RUNNER}", f"--dask_client_address={cluster.address}"])
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | beam.Create([7]) | beam.Map(_fail)
    with pytest.raises(OutputError, match=r"^/out: no room for 7"):
        pipeline.run().wait_until_finish()


class _YieldsAtTheEnd(beam.DoFn):
    def process(self, element: int) -> Iterator[int]:
        yield element

    def finish_bundle(self) -> None:
        """Yields nothing, which the runner does not know."""


def _branches(numbers: beam.PCollection) -> None:
    _ = numbers | "One" >> beam.Map(abs)
    _ = numbers | "Other" >> beam.Map(abs)


def _tags(numbers: beam.PCollection) -> None:
    _ = numbers | beam.Map(abs).with_outputs("big", main="small")


def _groups(numbers: beam.PCollection) -> None:
    _ = numbers | beam.Map(lambda number: (number, number)) | beam.GroupByKey()


def _joins(numbers: beam.PCollection) -> None:
    _ = numbers | beam.Map(lambda number, side: number, beam.pvalue.AsIter(numbers))


def _ends_bundles(numbers: beam.PCollection) -> None:
    _ = numbers | beam.ParDo(_YieldsAtTheEnd()) | beam.Map(abs)


def _starts_twice(numbers: beam.PCollection) -> None:
    _ = numbers.pipeline | "More" >> beam.Create([3]) | "Last" >> beam.Map(abs)


def _writes(numbers: beam.PCollection) -> None:
    _ = numbers | beam.io.WriteToText("/nowhere/numbers")


@pytest.mark.parametrize(
    ("extend", "reason"),
    [
        (_branches, "Other.* does not follow the transform before it"),
        (_tags, "it has several outputs"),
        (_groups, "it is a GroupByKey|it is a _GroupByKeyOnly"),
        (_joins, "it has a side input"),
        (_ends_bundles, "yields in finish_bundle would be lost"),
        (_starts_twice, "More.* does not follow the transform before it"),
        (_writes, "would not execute WriteToText"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_only_a_chain_of_transforms_is_accepted(extend: Callable[[Any], None], reason: str) -> None:
    # There is no scheduler: the pipeline is looked at first.
    options = PipelineOptions([f"--runner={RUNNER}", "--dask_client_address=tcp://127.0.0.1:1"])
    pipeline = beam.Pipeline(options=options)
    extend(pipeline | beam.Create([1, 2]))
    with pytest.raises(NotImplementedError, match=reason):
        pipeline.run()


@pytest.mark.slow
def test_a_killed_worker_leaves_no_trace(
    cluster: DaskCluster, tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(1000) | broken())
    run_job(archive)
    ledger = Ledger(str(tmp_path / "other"))

    def kill() -> None:
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        cluster.workers[0].wait()

    shown: list[BulkProgress] = []
    with after_the_first_unit(ledger, kill) as finished:
        result = run_job(
            archive,
            output=ledger.output,
            engine=EngineConfig(runner="dask", master=cluster.address),
            progress=shown.append,
        )
    assert 0 < finished[0] < result.units == 63
    assert (result.members, result.rows, result.rejects, result.notes) == (1007, 1000, 7, [])
    # From the records, because Beam's Dask runner has no counters.
    assert (shown[-1].members, shown[-1].rejects) == (1007, 7)
    assert files_of(tmp_path / "other") == files_of(tmp_path / "out")
    for part in ("table", "rejects"):
        expected = read_table(tmp_path / "out", part)
        assert_same_table(read_table(tmp_path / "other", part), expected)
