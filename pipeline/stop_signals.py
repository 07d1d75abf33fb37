"""Turns SIGINT, SIGTERM and SIGHUP into one exception, and remembers which of them came.

`cli/command.py` runs every command inside of it. Beam and TFX catch the exception and raise another
one, so that only the memory of the signal tells an interruption from a failure.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal:
    """Holds the signal that asked the process to stop.

    Attributes:
        received: The signal; None if there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: raises KeyboardInterrupt in the main thread."""
        del frame
        self.received = signal.Signals(number)
        raise KeyboardInterrupt

    @property
    def line(self) -> str:
        """Returns what a user is told."""
        what = "interrupted"
        if self.received not in (None, signal.SIGINT):
            what = f"stopped by {self.received.name}"
        return f"{what}; what is finished stays, start again to go on"

    @property
    def exit_code(self) -> int:
        """Returns the exit code that shells report of a process that a signal ended."""
        return 128 + (self.received or signal.SIGINT)


STOP: Final = StopSignal()
"""The signal that this process received."""


@contextlib.contextmanager
def handle_stop_signals() -> Iterator[StopSignal]:
    """Handles the signals within the block; does nothing outside the main thread.

    A signal that the process ignores, such as SIGHUP under `nohup`, stays ignored.
    """
    STOP.received = None
    if threading.current_thread() is not threading.main_thread():
        yield STOP
        return
    before = {
        number: signal.signal(number, STOP)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield STOP
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_stop(error: BaseException) -> bool:
    """Tells whether an error follows from a signal that asked the process to stop.

    Args:
        error: The error that ended a run, possibly one of Beam or TFX.
    """
    # Commands that do not train import this module, and need no NumPy.
    from trainer.optimization.preemption import PreemptedError

    return STOP.received is not None or isinstance(error, KeyboardInterrupt | PreemptedError)
