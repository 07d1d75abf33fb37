"""Reports the progress of a running job.

`job.py` starts a `Watch` alongside the pipeline. Workers in this process add to the tally as
batches finish; other workers count in Beam's metrics. If their runner reports metrics only at the
end, the records of finished units are counted instead.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from components.bulk_inference.output.counts import Counts
from components.bulk_inference.output.ledger import Ledger
from components.bulk_inference.planning.work_units import PlannedUnit
from components.bulk_inference.running.counters import read_counters
from trainer.progress import clock

_PERIOD_SECS: Final = 0.5
_RECORDS_PERIOD_SECS: Final = 2.0


@dataclass(frozen=True)
class BulkProgress:
    """Holds the progress of a running job at one moment.

    Attributes:
        members: Members processed by this run.
        total: Members that this run has to process; 0 if the archive does not state them.
        rejects: Rejects among the processed members.
        seconds: Seconds since the pipeline started.
        images_per_second: Throughput over the last few seconds.
        eta_secs: Seconds left at that rate; None if unknown.
    """

    members: int
    total: int
    rejects: int
    seconds: float
    images_per_second: float
    eta_secs: float | None

    def line(self) -> str:
        """Returns the progress as one line of text."""
        total = f" of {self.total:,}" if self.total else ""
        eta = f", ETA {clock(self.eta_secs)}" if self.eta_secs is not None else ""
        return (
            f"{self.members:,}{total} images, {self.images_per_second:,.0f} images/s, "
            f"{self.rejects:,} rejects{eta}"
        )


class Tally:
    """Counts the members that this process's workers finished."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._first: tuple[float, int] | None = None

    def start(self) -> None:
        """Resets the time of the first batch but keeps the counts."""
        with self._lock:
            self._first = None

    @property
    def first(self) -> tuple[float, int] | None:
        """Returns when the first batch since `start` finished (monotonic seconds), and its size."""
        with self._lock:
            return self._first

    def add(self, counts: Counts) -> None:
        """Adds a finished batch."""
        with self._lock:
            if self._first is None:
                self._first = (time.monotonic(), counts.members)
            self._counts.add_counts(counts)

    def read(self) -> tuple[int, int]:
        """Returns the members and rejects so far."""
        with self._lock:
            return self._counts.members, self._counts.rejects


TALLY: Final = Tally()
"""The process's tally; a watch reports the difference from its value at the start."""


class Watch:
    """Reports progress from a separate thread while the pipeline runs.

    Args:
        ledger: The job's files.
        todo: The units of this run.
        in_process: Whether the workers add to this process's tally.
        report: Called with each report; None disables reports.
        clock: Clock in seconds; injectable for tests.
    """

    def __init__(
        self,
        ledger: Ledger,
        todo: list[PlannedUnit],
        *,
        in_process: bool,
        report: Callable[[BulkProgress], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._names = {unit.name for unit in todo}
        counted = [unit.unit.members for unit in todo]
        self._total = sum(counted) if min(counted, default=-1) >= 0 else 0
        self._in_process = in_process
        self._report = report
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        TALLY.start()
        self._base = TALLY.read()
        self._seen: dict[str, tuple[int, int]] = {}
        self._outcome: Any = None
        self._begin = clock()
        self._history: list[tuple[float, int]] = [(self._begin, 0)]

    def __enter__(self) -> Self:
        if self._report is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._report is not None:
            self._stop.set()
            self._thread.join()
            if error is None:
                self._report(self.look())

    def follow(self, outcome: Any) -> None:
        """Reads the counters of this `PipelineResult` from now on."""
        self._outcome = outcome

    def look(self) -> BulkProgress:
        """Returns the current progress."""
        members, rejects = self._counts()
        now = self._clock()
        self._history.append((now, members))
        del self._history[:-20]
        since, before = self._history[0]
        rate = (members - before) / (now - since) if now > since else 0.0
        left = max(self._total - members, 0)
        eta = left / rate if self._total and rate > 0 else None
        return BulkProgress(members, self._total, rejects, now - self._begin, rate, eta)

    def _run(self) -> None:
        period = _PERIOD_SECS if self._in_process else _RECORDS_PERIOD_SECS
        while not self._stop.wait(period):
            if self._report is not None:
                self._report(self.look())

    def _counts(self) -> tuple[int, int]:
        if self._in_process:
            members, rejects = TALLY.read()
            return members - self._base[0], rejects - self._base[1]
        told = read_counters(self._outcome) if self._outcome is not None else {}
        if told.get("members"):
            return told["members"], told.get("rejects", 0)
        for name in self._names & self._ledger.finished_names() - self._seen.keys():
            record = self._ledger.read_record(name)
            self._seen[name] = (record.members, record.rejects)
        return (
            sum(members for members, _ in self._seen.values()),
            sum(rejects for _, rejects in self._seen.values()),
        )
