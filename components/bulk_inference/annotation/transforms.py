"""Defines the bulk job as a Beam transform from planned units to their records.

Elements are whole work units: the runner distributes them, and a worker overlaps two at a time.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from components.beam_metrics import count
from components.bulk_inference.annotation.unit import JobSpec, annotate_unit
from components.bulk_inference.config import BulkJob
from components.bulk_inference.output.ledger import UnitRecord
from components.bulk_inference.planning.exact_copies import hash_unit
from components.bulk_inference.planning.work_units import PlannedUnit
from components.bulk_inference.running.counters import NAMESPACE, UnitCounts

_COUNT_SECS: Final = 1.0
"""Seconds between two updates of the counters while waiting for a unit."""

UNITS_AT_A_TIME: Final = 2
"""Units in progress per worker: one is read and annotated while the other is written."""


class AnnotateUnit(beam.DoFn):
    """Annotates units, two at a time.

    Args:
        spec: The job; it names the model, which each process loads once.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec

    def setup(self) -> None:
        """Creates the threads."""
        self._threads = ThreadPoolExecutor(UNITS_AT_A_TIME, thread_name_prefix="unit")
        self._under_way: list[tuple[Future[UnitRecord], UnitCounts]] = []

    def process(self, element: PlannedUnit) -> Iterator[UnitRecord]:
        """Starts a unit and yields the record of an earlier one that has finished."""
        counts = UnitCounts()
        unit = self._threads.submit(annotate_unit, element, self._spec, counts)
        self._under_way.append((unit, counts))
        if len(self._under_way) >= UNITS_AT_A_TIME:
            yield self._finish_oldest()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Waits for the remaining units of the bundle and yields their records."""
        window = GlobalWindow()
        while self._under_way:
            yield WindowedValue(self._finish_oldest(), window.max_timestamp(), [window])

    def teardown(self) -> None:
        """Ends the threads and abandons the units of a failed bundle."""
        wait([unit for unit, _ in self._under_way])
        self._threads.shutdown()

    def _finish_oldest(self) -> UnitRecord:
        unit, _ = self._under_way[0]
        try:
            while unit not in wait([unit], timeout=_COUNT_SECS).done:
                self._count()
            record = unit.result()
        except BaseException:
            wait([unit for unit, _ in self._under_way])
            self._under_way.clear()
            raise
        self._count()
        count(NAMESPACE, "units")
        self._under_way.pop(0)
        return record

    def _count(self) -> None:
        for _, counts in self._under_way:
            for name, number in counts.take().items():
                count(NAMESPACE, name, number)


@dataclass
class HashUnits(beam.PTransform):
    """Hashes every member of every unit.

    Attributes:
        config: The job.
    """

    config: BulkJob

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, units: beam.PCollection[PlannedUnit]) -> beam.PCollection[int]:
        """Distributes the units over the workers; returns the number of members of each."""
        return (
            units
            | "SpreadUnits" >> beam.Reshuffle()
            | "HashUnit" >> beam.Map(hash_unit, self.config).with_output_types(int)
        )


@dataclass
class AnnotateUnits(beam.PTransform):
    """Annotates every unit of a collection.

    Attributes:
        spec: The job.
    """

    spec: JobSpec

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, units: beam.PCollection[PlannedUnit]) -> beam.PCollection[UnitRecord]:
        """Distributes the units over the workers and annotates them."""
        return (
            units
            | "SpreadUnits" >> beam.Reshuffle()
            | "AnnotateUnit" >> beam.ParDo(AnnotateUnit(self.spec)).with_output_types(UnitRecord)
        )
