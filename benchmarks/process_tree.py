"""Samples memory and processor time of a process and all below it, for the benchmarks of memory."""

import threading
import time
from typing import Final, NamedTuple

import psutil

_INTERVAL_SECS: Final = 0.1


class Sample(NamedTuple):
    """State of the process tree at one moment.

    Attributes:
        time: seconds since 1970-01-01 UTC.
        resident_mib: resident memory; pages that several processes share count in each of them.
        own_mib: resident memory without the pages of files (code, memory-mapped data), which are
            page cache: the kernel drops them when memory is short.
        cpu_seconds: user and system time so far, of ended processes, too.
        largest_mib: `own_mib` of the largest process.
    """

    time: float
    resident_mib: float
    own_mib: float
    cpu_seconds: float
    largest_mib: float


class TreeWatch:
    """Samples a process tree in a thread of this process while the `with` block runs.

    Args:
        pid: The process at the top.

    Attributes:
        samples: what was found, in order of time.
    """

    def __init__(self, pid: int) -> None:
        self.samples: list[Sample] = []
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "TreeWatch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def peak_mib(self) -> float:
        """The largest resident memory."""
        return max((sample.resident_mib for sample in self.samples), default=0.0)

    def _watch(self) -> None:
        known = {self._process}
        while True:
            try:
                processes = {self._process, *self._process.children(recursive=True)}
            except psutil.NoSuchProcess:
                return
            # Until it starts its own program, a new process shows the memory of its parent.
            if (sample := _sample(processes & known)).resident_mib:
                self.samples.append(sample)
            known = processes
            if self._done.wait(_INTERVAL_SECS):
                return


def _sample(processes: set[psutil.Process]) -> Sample:
    resident = shared = largest = 0
    seconds = 0.0
    for process in processes:
        try:
            with process.oneshot():
                memory = process.memory_info()
                # Times of ended children are added to those of the process that waited for them.
                seconds += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
        resident += memory.rss
        shared += memory.shared
        largest = max(largest, memory.rss - memory.shared)
    own = (resident - shared) / 2**20
    return Sample(time.time(), resident / 2**20, own, seconds, largest / 2**20)
