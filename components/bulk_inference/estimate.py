"""`--dry-run`: what a job would cost, from a sample of its own archive.

Called by `job.py` in place of the pipeline; writes into a temporary folder only.
"""

import os
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from components.bulk_inference.config import BulkJob
from components.bulk_inference.planning import PlannedUnit
from trainer.model_card import ModelCard

_LEAST_SECONDS: Final = 3.0
"""The sample grows unit by unit until it took this long, so that warming up does not count."""
_MOST_UNITS: Final = 20


@dataclass(frozen=True)
class Estimate:
    """What a whole job is expected to cost on this machine.

    Attributes:
        units: Work units to do.
        members: Members in them; a guess from the sample where the archive does not tell.
        rows: Rows among them.
        rejects: Members that would be rejected.
        seconds: Wall time, start-up included.
        images_per_second: Of the sample, start-up left out.
        memory_bytes: Peak of the process so far, which later units do not raise.
        output_bytes: Size of the output.
        sampled: Members in the sample.
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
        """Plain values."""
        return asdict(self)


def estimate(config: BulkJob, card: ModelCard, todo: list[PlannedUnit], workers: int) -> Estimate:
    """Does units spread over the archive until the sample tells enough, and projects.

    Args:
        config: The job.
        card: The model.
        todo: Units that the job would do.
        workers: Cores it would use.
    """
    from components.bulk_inference.unit import JobSpec, annotate_unit

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
                # The first unit pays for imports, loading and tracing.
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
