"""Estimates the cost of a job for `--dry-run`, from a sample of its own archive.

`job.py` calls it in place of the pipeline; it writes only to a temporary folder.
"""

import os
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from components.bulk_inference.config import BulkJob
from components.bulk_inference.planning.work_units import PlannedUnit
from trainer.model_card import ModelCard

_LEAST_SECONDS: Final = 3.0
"""Duration up to which the sample grows unit by unit, so that warm-up does not dominate."""
_MOST_UNITS: Final = 20


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
        images_per_second: Throughput of the sample, without start-up.
        memory_bytes: Peak memory of the process so far, which later units do not raise.
        output_bytes: Size of the output.
        sampled: Number of members in the sample.
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

    def as_dict(self) -> dict[str, Any]:
        """Returns the estimate as plain values."""
        return asdict(self)


def estimate(config: BulkJob, card: ModelCard, todo: list[PlannedUnit], workers: int) -> Estimate:
    """Processes units spread over the archive until the sample suffices, and extrapolates.

    Args:
        config: The job.
        card: The model.
        todo: The units that the job would do.
        workers: Number of cores that the job would use.
    """
    from components.bulk_inference.annotation.unit import JobSpec, annotate_unit

    begin = time.perf_counter()
    sampled = rows = rejects = output_bytes = done = 0
    seconds = startup = 0.0
    step = max(1, len(todo) // _MOST_UNITS)
    with tempfile.TemporaryDirectory(prefix="bulk-dry-run-") as folder:
        elsewhere = config.model_copy(update={"output": folder})
        spec = JobSpec(elsewhere, card, workers)
        for unit in todo[::step][:_MOST_UNITS]:
            record = annotate_unit(unit, spec)
            if not done:
                # The first unit includes imports, loading and tracing.
                startup = max(0.0, time.perf_counter() - begin - record.seconds)
            done += 1
            seconds += record.seconds
            sampled += record.members
            rows += record.rows
            rejects += record.rejects
            output_bytes += sum(record.files.values())
            output_bytes += os.path.getsize(f"{folder}/_units/{record.name}.json")
            if seconds >= _LEAST_SECONDS:
                break
    counted = [unit.unit.members for unit in todo]
    per_unit = sampled / max(done, 1)
    members = sum(count if count >= 0 else round(per_unit) for count in counted)
    scale = members / max(sampled, 1)
    return Estimate(
        units=len(todo),
        members=members,
        rows=round(rows * scale),
        rejects=round(rejects * scale),
        seconds=startup + seconds * scale,
        images_per_second=sampled / seconds if seconds else 0.0,
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        output_bytes=round(output_bytes * scale),
        sampled=sampled,
    )
