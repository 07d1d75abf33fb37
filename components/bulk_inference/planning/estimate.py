"""Estimates the cost of a job for `--dry-run`, from a sample of its own archive.

`job.py` calls it in place of the pipeline; it writes only to a temporary folder.
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

from components.bulk_inference.config import BulkJob
from components.bulk_inference.output.ledger import Ledger
from components.bulk_inference.planning.work_units import PlannedUnit
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource
from components.unit_engine import SLICE_BYTES
from trainer.errors import InputError
from trainer.model_card import ModelCard
from trainer.quick_imports import quick_imports

_MOST_UNITS: Final = 24
_MOST_SECONDS: Final = 20.0
"""Time for the sample, without start-up; it is left once a unit passes it."""
_UNIT_SECONDS: Final = 1.0
_LEAST_SECONDS: Final = 5.0
"""Time that all units of the sample should take together, where there are few."""
_FEWEST_PER_THREAD: Final = 16
_MOST_PER_THREAD: Final = 2048


@dataclass(frozen=True)
class Estimate:
    """Holds the expected cost of a whole job on this machine.

    Attributes:
        units: Number of work units to do.
        members: Members in these units, extrapolated from the sample if the archive does not
            state them.
        rows: Expected number of rows.
        rejects: Expected number of rejects.
        seconds: Wall time, including start-up.
        images_per_second: Expected throughput, without start-up.
        memory_bytes: Peak memory of the process so far, which later units do not raise.
        output_bytes: Size of the output.
        sampled: Number of members in the sample.
        sampled_units: Number of units that they are from.
    """

    units: int
    members: int
    rows: int
    rejects: int
    seconds: float
    images_per_second: float
    memory_bytes: int
    output_bytes: int
    sampled: int
    sampled_units: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the estimate as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Sample:
    """Holds what the first members of one unit took, and how many members the unit has."""

    taken: int
    members: int
    rows: int
    rejects: int
    seconds: float
    opening: float
    file_bytes: int
    record_bytes: int

    def seconds_for(self, members: int, least: float) -> float:
        """Returns the time for a unit of which this is the head.

        Args:
            members: Members of the unit.
            least: Time that a unit takes whatever it holds.
        """
        once = min(max(self.opening, least), self.seconds)
        return once + (self.seconds - once) * members / max(self.taken, 1)


class HeadSource(ImageSource):
    """Reads the first members of units only.

    Args:
        config: The input section; `units.batch` members are the finest step.
        most: Number of members after which the head of a unit ends.
        most_bytes: Bytes after which it ends.

    Attributes:
        opening: Seconds until the first batch of the unit that was read last was there.
    """

    def __init__(self, config: InputConfig, most: int, most_bytes: int) -> None:
        super().__init__(config)
        self._most = most
        self._most_bytes = most_bytes
        self._rest: Iterator[MemberBatch] = iter(())
        self.opening = 0.0

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads the head of a unit; see `ImageSource.read`."""
        members = size = 0
        begin = time.perf_counter()
        self._rest = super().read(unit)
        for batch in self._rest:
            if not members:
                self.opening = time.perf_counter() - begin
            yield batch
            members += batch.members
            size += batch.size
            if members >= self._most or size >= self._most_bytes:
                return

    def count_rest(self) -> int:
        """Reads what follows the head of the unit that was read last, and counts it."""
        return sum(batch.members for batch in self._rest)


def estimate(
    config: BulkJob, card: ModelCard, todo: Sequence[PlannedUnit], *, workers: int, begin: float
) -> Estimate:
    """Processes the heads of units spread over the archive, and extrapolates.

    Each unit counts as many times as it has members, and each unit that is not in the sample as
    its nearest one that is, because neighbours in an archive resemble each other: thumbnails and
    photographs of an archive are mostly in different parts of it.

    Args:
        config: The job.
        card: The model.
        todo: The units that the job would do.
        workers: Number of cores that the job would use.
        begin: When the job began, as `time.perf_counter()` gives it.

    Raises:
        InputError: if one of the archives is unreadable.
    """
    if not todo:
        return Estimate(0, 0, 0, 0, time.perf_counter() - begin, 0.0, _peak_memory(), 0, 0, 0)
    with quick_imports():
        # Beam comes with it, whose import is part of the start-up of the job.
        from components.bulk_inference.annotation.transforms import UNITS_AT_A_TIME

    threads = workers + 1
    probe = max(todo, key=lambda planned: planned.unit.members)
    with tempfile.TemporaryDirectory(prefix="bulk-dry-run-") as folder:
        sampler = _Sampler(config, card, workers, folder)
        most = _FEWEST_PER_THREAD * threads
        sampler.take(probe, most)  # loads and traces the model
        startup = time.perf_counter() - begin
        few = many = sampler.take(probe, most)
        enough = max(_UNIT_SECONDS, _LEAST_SECONDS / len(todo))
        # Large calls of the model take less time per image, and those of the job are large.
        while many.seconds < enough and most < threads * _MOST_PER_THREAD and many.taken >= most:
            most = min(4 * most, threads * _MOST_PER_THREAD)
            many = sampler.take(probe, most)
        sampling = time.perf_counter()
        samples: dict[int, _Sample] = {}
        places = spread(len(todo), _MOST_UNITS)
        for start in range(0, len(places), UNITS_AT_A_TIME):
            some = places[start : start + UNITS_AT_A_TIME]
            taken = sampler.take_together([todo[place] for place in some], most)
            samples.update(zip(some, taken, strict=True))
            if time.perf_counter() - sampling > _MOST_SECONDS:
                break
    return _extrapolated(todo, samples, startup, few, many)


def spread(count: int, most: int) -> list[int]:
    """Returns evenly spaced places of a sequence, in an order whose every start is spread, too.

    Args:
        count: Length of the sequence.
        most: Most places.
    """
    chosen = min(count, most)
    places = [(2 * turn + 1) * count // (2 * chosen) for turn in range(chosen)]
    bits = max(chosen - 1, 1).bit_length()
    reversed_bits = (int(f"{turn:0{bits}b}"[::-1], 2) for turn in range(1 << bits))
    return [places[turn] for turn in reversed_bits if turn < chosen]


class _Sampler:
    def __init__(self, config: BulkJob, card: ModelCard, workers: int, folder: str) -> None:
        from components.bulk_inference.annotation.handler import shared_annotator

        self._config = config.model_copy(update={"output": folder})
        self._card = card
        self._workers = workers
        self._ledger = Ledger(folder)
        # With the limit of the job, which the small slices of a sample must not lower.
        shared_annotator(
            card,
            workers=workers,
            max_images=config.batch.max_images,
            columns=config.columns,
        )

    def take_together(self, planned: Sequence[PlannedUnit], most: int) -> list[_Sample]:
        """Annotates the heads of units at the same time; each has its share of the seconds."""
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(planned)) as pool:
            taken = list(pool.map(partial(self.take, most=most), planned))
        share = (time.perf_counter() - begin) / max(sum(each.seconds for each in taken), 1e-9)
        return [
            replace(each, seconds=each.seconds * share, opening=each.opening * share)
            for each in taken
        ]

    def take(self, planned: PlannedUnit, most: int) -> _Sample:
        """Annotates the head of a unit, of about `most` members divided among all threads."""
        from components.bulk_inference.annotation.unit import JobSpec, annotate_unit

        threads = self._workers + 1
        share = -(-most // threads)
        config, units = self._config, self._config.input.units
        few = config.batch.model_copy(update={"max_images": min(config.batch.max_images, share)})
        fine = units.model_copy(update={"batch": min(units.batch, most)})
        source = HeadSource(
            config.input.model_copy(update={"units": fine}), most, threads * SLICE_BYTES
        )
        spec = JobSpec(config.model_copy(update={"batch": few}), self._card, self._workers)
        record = annotate_unit(planned, spec, source=source)
        if planned.name not in self._ledger.finished_names():
            raise InputError(self._ledger.read_error(planned.name))
        members = planned.unit.members
        if members < 0:
            members = record.members + source.count_rest()
        record_bytes = os.path.getsize(f"{self._ledger.output}/_units/{record.name}.json")
        return _Sample(
            taken=record.members,
            members=members,
            rows=record.rows,
            rejects=record.rejects,
            seconds=record.seconds,
            opening=source.opening,
            file_bytes=sum(record.files.values()),
            record_bytes=record_bytes,
        )


def _extrapolated(
    todo: Sequence[PlannedUnit],
    samples: dict[int, _Sample],
    startup: float,
    few: _Sample,
    many: _Sample,
) -> Estimate:
    # What a unit takes without any members must not grow with them.
    base = _without_members(many.taken, many.file_bytes, few.taken, few.file_bytes)
    least = _without_members(many.taken, many.seconds, few.taken, few.seconds)
    members = rows = rejects = seconds = output_bytes = 0.0
    places = sorted(samples)
    for place, planned in enumerate(todo):
        sample = samples[min(places, key=lambda other: abs(other - place))]
        count = planned.unit.members if planned.unit.members >= 0 else sample.members
        scale = count / max(sample.taken, 1)
        members += count
        rows += scale * sample.rows
        rejects += scale * sample.rejects
        seconds += sample.seconds_for(count, least)
        output_bytes += base + scale * max(0.0, sample.file_bytes - base) + sample.record_bytes
    return Estimate(
        units=len(todo),
        members=round(members),
        rows=round(rows),
        rejects=round(rejects),
        seconds=startup + seconds,
        images_per_second=members / seconds if seconds else 0.0,
        memory_bytes=_peak_memory(),
        output_bytes=round(output_bytes),
        sampled=sum(sample.taken for sample in samples.values()),
        sampled_units=len(samples),
    )


def _without_members(many: int, of_many: float, few: int, of_few: float) -> float:
    """Returns the value at 0 members of the line through those at two numbers of members."""
    growth = (of_many - of_few) / max(many - few, 1)
    return max(0.0, of_few - growth * few) if growth > 0 else 0.0


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
