"""Ends the local runner's worker processes when a user interrupts the job.

`job.py` uses it. Otherwise Beam's runner waits for its workers, and each processes half of the
archive before it returns.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import psutil


@contextlib.contextmanager
def workers_end_with_us() -> Iterator[None]:
    """Kills all child processes on SIGINT, and on other signals that the process handles.

    Afterwards the handler from before is called; KeyboardInterrupt is raised in any case. This is
    safe, because an unfinished unit leaves no record. Outside the main thread, the only
    one that may handle signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        raise KeyboardInterrupt

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    handled = [number for number, handler in before.items() if callable(handler)]
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
