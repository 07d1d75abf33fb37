"""Updates the counters and timers of Beam steps.

Ingest and the bulk job use it; names of timers carry their unit.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from apache_beam.metrics import Metrics


def count(namespace: str, name: str, number: int = 1) -> None:
    """Adds to a counter; must be called inside a running Beam step."""
    if number:
        Metrics.counter(namespace, name).inc(number)


@contextmanager
def timed(
    namespace: str, name: str, clock: Callable[[], int] = time.perf_counter_ns
) -> Iterator[None]:
    """Adds the duration of a block to the counter `<name>_micro_secs`, even if the block fails.

    Args:
        namespace: The counter's namespace, the name of a component.
        name: The name of the timed operation.
        clock: Clock in nanoseconds; injectable for tests.
    """
    begin = clock()
    try:
        yield
    finally:
        Metrics.counter(namespace, f"{name}_micro_secs").inc((clock() - begin) // 1000)
