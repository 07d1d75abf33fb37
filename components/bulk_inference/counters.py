"""The job's Beam counters: how a step feeds them, and how the job reads them back.

`transforms.py` counts while a unit is under way; `progress.py` shows what the runner tells of it
before the end, and `job.py` holds the sums of the records against them.
"""

import copy
import threading
from dataclasses import dataclass, field
from typing import Any, Final

NAMESPACE: Final = "bulk"
NAMES: Final = ("members", "rows", "rejects", "duplicates")
"""Counters of members, beside `units`."""


@dataclass
class UnitCounts:
    """What a unit came to so far; its own threads add, Beam's thread takes.

    Beam's counters belong to the thread that runs the step, which only waits meanwhile.
    """

    _counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **counts: int) -> None:
        """Adds a finished batch, by counter."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def take(self) -> dict[str, int]:
        """Gives what was added since it was asked before."""
        with self._lock:
            taken, self._counts = self._counts, dict.fromkeys(NAMES, 0)
        return taken


def read_counters(outcome: Any) -> dict[str, int]:
    """Reads the counters of a pipeline that runs or is done.

    Runners differ in when they tell: Dataflow from the beginning, Beam's local runner and the job
    services of Flink and Spark at the end.

    Args:
        outcome: The `PipelineResult`.

    Returns:
        Counts by name, committed ones where the runner knows them; empty where it tells nothing.
    """
    from apache_beam.metrics.metric import MetricsFilter

    try:
        # A portable result keeps its first answer for good; a copy asks anew.
        found = copy.copy(outcome).metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    except Exception:
        # Whatever a runner raises here, the job goes on without its counters.
        return {}
    counts: dict[str, int] = {}
    for counter in found["counters"]:
        name = counter.key.metric.name
        counts[name] = counts.get(name, 0) + int(counter.result or 0)
    return counts
