"""Reports a training run: progress events, running means, history.json and timing.

`loop.py` uses it.
"""

import dataclasses
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.json_text import json_text
from trainer.progress import clock
from trainer.storage import files

_LOG = logging.getLogger(__name__)

HISTORY_BOUND = "importance_bound"
"""Key of the importance-weighted bound in the last record of history.json."""
STARTS = "starts.json"
"""File next to history.json: the starts' scores and the number of the chosen one, from 0."""


@dataclasses.dataclass(frozen=True)
class TrainingProgress:
    """The progress of a training run.

    Attributes:
        step: number of completed steps.
        total_steps: planned number of steps.
        epoch: completed passes over the train split.
        images_per_sec: images of the train split per second over the last call.
        eta_secs: estimated remaining time.
        parts: losses of the last step by name.
        validation: measures of the validation split if it was just evaluated, else None.
        bound: the importance-weighted bound in words, after training.
        stage: what is being trained, if it is not the model itself.
    """

    step: int
    total_steps: int
    epoch: float
    images_per_sec: float
    eta_secs: float
    parts: dict[str, float]
    validation: dict[str, float] | None = None
    bound: str = ""
    stage: str = ""

    def line(self) -> str:
        """Formats the progress as one line for users."""
        parts = self.parts
        losses = f"loss {parts['loss']:.4f}"
        # A part that the objective leaves out is exactly 0.
        if parts.get("elbo"):
            losses += f"  elbo {parts['elbo']:.1f} (kl {parts['kl']:.1f})"
        if parts.get("cross_entropy"):
            losses += f"  cross-entropy {parts['cross_entropy']:.4f}"
        stage = f"{self.stage}: " if self.stage else ""
        text = (
            f"{stage}step {self.step}/{self.total_steps}  epoch {self.epoch:.1f}  "
            f"{self.images_per_sec:,.0f} images/s  {losses}  ETA {clock(self.eta_secs)}"
        )
        if self.validation and "accuracy" in self.validation:
            text += f"  validation accuracy {self.validation['accuracy']:.4f}"
        return f"{text}  {self.bound}" if self.bound else text


ProgressFn = Callable[[TrainingProgress], None]


def log_progress(event: TrainingProgress) -> None:
    """Logs one line; the default progress function."""
    _LOG.info("%s", event.line())


class Means:
    """Running means of loss parts between two evaluations; checkpoints include them."""

    def __init__(self, names: tuple[str, ...], state: dict[str, Any] | None = None) -> None:
        self._names = names
        self._sums = np.asarray(state["sums"]) if state else np.zeros(len(names))
        self._count = state["count"] if state else 0

    def add(self, values: np.ndarray) -> None:
        """Adds the values of steps, float32 [steps, names]."""
        # One row at a time, so that the sum does not depend on the number of steps per call.
        for row in values.astype(np.float64):
            self._sums = self._sums + row
        self._count += len(values)

    def take(self) -> dict[str, float]:
        """Returns the means by name and resets them."""
        means = self._sums / max(self._count, 1)
        self._sums, self._count = np.zeros(len(self._names)), 0
        return {name: float(value) for name, value in zip(self._names, means, strict=True)}

    def state(self) -> dict[str, Any]:
        """Returns the state as plain values for the checkpoint."""
        return {"sums": self._sums.tolist(), "count": self._count}


def write_history(workdir: str, history: list[dict[str, Any]]) -> None:
    """Writes `history.json`: a record per evaluation, null for numbers that are not finite."""
    path = os.path.join(workdir, "history.json")
    files.write_bytes(path, json_text(history, indent=1).encode())


class Clock:
    """Measures speed; the first call, which traces and compiles, does not count.

    Args:
        now: returns monotonic time in seconds; injectable for tests.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._started = now()
        self._last = self._started
        self.step_secs: float | None = None
        self._warm = False

    def tick(self, steps: int) -> float:
        """Records the time of a call with `steps` steps and returns seconds per step."""
        now = self._now()
        taken = (now - self._last) / steps
        self._last = now
        if self._warm:
            self.step_secs = taken
        self._warm = True
        return taken

    def skip(self) -> None:
        """Excludes the time since the last tick, spent on an evaluation or a checkpoint."""
        self._last = self._now()

    def elapsed(self) -> float:
        """Returns the seconds since the start."""
        return self._now() - self._started
