"""Progress: from Beam's counters where a runner tells them, from records where it does not."""

from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from components.bulk_inference import job
from components.bulk_inference.annotation.transforms import AnnotateUnits
from components.bulk_inference.annotation.unit import JobSpec
from components.bulk_inference.config import BulkJob, EngineConfig
from components.bulk_inference.job import CountMismatchError
from components.bulk_inference.model_card import read_card
from components.bulk_inference.output.ledger import Ledger
from components.bulk_inference.planning.work_units import plan_units
from components.bulk_inference.running.counters import read_counters
from components.bulk_inference.running.engines import choose_engine
from components.bulk_inference.running.progress import BulkProgress, Watch
from components.image_sources.config import InputConfig, UnitsConfig
from tests.components.bulk_inference.archives import broken, digits, write_zip
from tests.components.bulk_inference.conftest import RunJob

EMBEDDED = EngineConfig(
    runner="flink", workers=2, options=("--runner=PortableRunner", "--job_endpoint=embed")
)


@pytest.mark.parametrize("engine", [EngineConfig(workers=2), EMBEDDED], ids=["local", "portable"])
def test_counters_are_read_back_from_a_runner(
    engine: EngineConfig, model: Path, tmp_path: Path
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(40) | broken())
    inputs = InputConfig(paths=(str(archive),), units=UnitsConfig(members=16))
    config = BulkJob(input=inputs, model=str(model), output=str(tmp_path / "out"))
    units = list(plan_units(config))
    pipeline = beam.Pipeline(options=choose_engine(engine, len(units)).options)
    spec = JobSpec(config, read_card(str(model)), workers=2)
    _ = pipeline | beam.Create(units) | AnnotateUnits(spec)
    outcome = pipeline.run()
    outcome.wait_until_finish()
    assert read_counters(outcome) == {"members": 47, "rows": 40, "rejects": 7, "units": 3}


class Told:
    """A `PipelineResult` that keeps its first answer, as the portable one does."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts
        self._kept: Any = None

    def metrics(self) -> "Told":
        self._kept = self._kept or dict(self.counts)
        return self

    def query(self, _: object) -> dict[str, list[Any]]:
        class Named:
            def __init__(self, name: str, result: int) -> None:
                self.key, self.metric, self.name = self, self, name
                self.result = result

        return {"counters": [Named(name, count) for name, count in self._kept.items()]}


def test_a_watch_shows_what_the_runner_counts_while_it_runs(tmp_path: Path) -> None:
    told = Told({"members": 10, "rejects": 1})
    times = iter([0.0, 1.0, 2.0])
    watch = Watch(
        Ledger(str(tmp_path)), [], in_process=False, report=None, clock=lambda: next(times)
    )
    watch.follow(told)
    assert watch.look() == BulkProgress(10, 0, 1, 1.0, 10.0, None)
    told.counts["members"] = 30
    assert watch.look() == BulkProgress(30, 0, 1, 2.0, 15.0, None)


def test_counters_that_part_from_the_records_fail_a_local_job(
    tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(20))

    def one_less(outcome: object) -> dict[str, int]:
        counts = read_counters(outcome)
        return {**counts, "rows": counts["rows"] - 1}

    monkeypatch.setattr(job, "read_counters", one_less)
    with pytest.raises(CountMismatchError, match=r"Beam counted 19 rows, this run's records 20"):
        run_job(archive)
