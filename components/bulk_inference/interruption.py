"""Ends the local runner's worker processes when a person interrupts the job.

Used by `job.py`. Beam's runner waits for them first, and each does half of the archive before it
looks up.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import psutil


@contextlib.contextmanager
def workers_end_with_us() -> Iterator[None]:
    """On SIGINT kills all processes that this one has started, then raises KeyboardInterrupt.

    No unit is lost by it: one that is not finished leaves nothing that counts. Outside of the main
    thread, which alone may handle signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
