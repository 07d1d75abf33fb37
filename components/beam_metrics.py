"""Counters and timers of our Beam steps, through one helper each.

Used by ingest and by the bulk job; names carry their unit.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from apache_beam.metrics import Metrics


def count(namespace: str, name: str, number: int = 1) -> None:
    """Adds to a counter; inside a running Beam step."""
    if number:
        Metrics.counter(namespace, name).inc(number)


@contextmanager
def timed(
    namespace: str, name: str, clock: Callable[[], int] = time.perf_counter_ns
) -> Iterator[None]:
    """Adds the time of a block to the counter `<name>_micro_secs`, also when the block fails.

    Args:
        namespace: Of the counter, a component's name.
        name: What is timed.
        clock: Nanoseconds; tests inject their own.
    """
    begin = clock()
    try:
        yield
    finally:
        Metrics.counter(namespace, f"{name}_micro_secs").inc((clock() - begin) // 1000)
