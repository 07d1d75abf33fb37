"""Ends a training early on SIGTERM from a scheduler, or when a value is not finite."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from trainer.errors import UserError

PREEMPTED_EXIT_CODE: Final = 75
"""Exit code EX_TEMPFAIL: the same command, started again, resumes where it stopped."""


class PreemptedError(UserError, RuntimeError):
    """Signals that the run was asked to stop and has saved its state.

    Entry points exit with `PREEMPTED_EXIT_CODE`; the command line reads the code from here.
    """

    exit_code = PREEMPTED_EXIT_CODE


class TrainingDivergedError(UserError, ValueError):
    """Signals that a part of the loss is not finite."""


class StopRequest:
    """Records whether the process was asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: Any) -> None:
        """Handles the signal."""
        del number, frame
        self.requested = True


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Turns SIGTERM into a flag within the block; outside the main thread it is never set."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = signal.signal(signal.SIGTERM, request)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)


_CAUSES = (
    "reconstruction",
    "kl",
    "cross_entropy",
    "unlabelled_elbo",
    "consistency",
    "mutual_information",
    "teaching",
    "loss",
    "gradient_norm",
)
"""Parts of the loss in the order in which a non-finite value spreads."""


def check_finite(values: np.ndarray, names: Sequence[str], first_step: int) -> None:
    """Stops the training at the first step with a non-finite value.

    Args:
        values: float32 [steps, parts].
        names: names of the parts.
        first_step: number of the first row.

    Raises:
        TrainingDivergedError: a value is not finite; the message names the step and the part.
    """
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    row = int(np.argmax(bad.any(axis=1)))
    found = [name for name in _CAUSES if name in names and bad[row, list(names).index(name)]]
    term = found[0] if found else names[int(np.argmax(bad[row]))]
    raise TrainingDivergedError(
        f"training stopped at step {first_step + row}: {term} is "
        f"{values[row, list(names).index(term)]}; lower trainer.optimizer.learning_rate or set "
        "trainer.optimizer.clip_norm"
    )
