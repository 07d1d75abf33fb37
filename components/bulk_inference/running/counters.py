"""Updates the job's Beam counters from a step, and reads them back from the runner.

`transforms.py` counts while a unit is in progress; `progress.py` shows what the runner reports
before the end, and `job.py` compares the counters with the sums of the records.
"""

import copy
import threading
from dataclasses import dataclass, field
from typing import Any, Final

from components.bulk_inference.output.counts import Counts

NAMESPACE: Final = "bulk"


@dataclass
class UnitCounts:
    """Accumulates the counts of a unit: its threads add, Beam's thread takes.

    Only the thread that runs the step may update Beam's counters, and it waits for the unit.
    """

    _counts: Counts = field(default_factory=Counts)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, counts: Counts) -> None:
        """Adds the counts of a finished batch."""
        with self._lock:
            self._counts.add_counts(counts)

    def take(self) -> dict[str, int]:
        """Returns the counts added since the previous call."""
        with self._lock:
            taken, self._counts = self._counts, Counts()
        return taken.as_counts()


def read_counters(outcome: Any) -> dict[str, int]:
    """Reads the counters of a running or finished pipeline.

    Dataflow and Prism report counters from the start; Beam's local runner and the job services of
    Flink and Spark report them only at the end, and Dask never does.

    Args:
        outcome: The `PipelineResult`.

    Returns:
        Counts by name, committed ones if the runner provides them; empty if it reports none.
    """
    from apache_beam.metrics.metric import MetricsFilter

    try:
        # A portable result caches its first answer; a copy queries again.
        found = copy.copy(outcome).metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    except Exception:
        # Runners raise various errors here; the job can continue without counters.
        return {}
    counts: dict[str, int] = {}
    for counter in found["counters"]:
        name = counter.key.metric.name
        counts[name] = counts.get(name, 0) + int(counter.result or 0)
    return counts
