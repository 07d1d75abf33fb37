"""Runs the pipeline if the metadata store gives a reason to, for `vaeline retrain`.

Without a reason it takes a second or two, because neither TFX nor TensorFlow is imported.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.retraining.reasons import Attempt, Decision, Drift, decide, look, read_drift
from pipeline.config import ConfigError, PipelineConfig
from pipeline.console import Terminal
from pipeline.jobs import show_result, train_and_push
from pipeline.orchestration.lock import require_free
from pipeline.runs.run import FINISHED, Run
from pipeline.runs.step import FAILED
from pipeline.runs.store import METADATA_FILE, read_runs

if TYPE_CHECKING:
    from pipeline.runs.result import TrainingResult

_DRIFT_FILE = "drift.json"


@dataclass(frozen=True)
class Retraining:
    """The outcome of `retrain`.

    Attributes:
        decision: whether there was a reason, and which.
        training: result of the run; None if there was no reason.
    """

    decision: Decision
    training: "TrainingResult | None"

    def as_dict(self) -> dict[str, Any]:
        """Returns the outcome as JSON-compatible values."""
        training = self.training.as_dict() if self.training is not None else None
        return {"trained": self.decision.train, "reason": self.decision.reason, "run": training}


def retrain(
    terminal: Terminal,
    config: PipelineConfig,
    *,
    root: Path,
    force: bool = False,
    publish: Callable[[], None] = lambda: None,
) -> Retraining:
    """Trains if there is a reason, and shows the reason or that there is none.

    Args:
        terminal: Output for the user.
        config: The configuration; section `retrain` defines the reasons.
        root: Folder of the runs.
        force: Whether to train even without a reason.
        publish: As for `train_and_push`.

    Returns:
        The outcome.

    Raises:
        InputError: The images cannot be found.
        LockedError: Another run holds this root.
        Exception: The error that stopped the run.
    """
    decision = find_reason(config, root=root, force=force)
    if not decision.train:
        terminal.say(f"nothing to do: {decision.reason}")
        return Retraining(decision, None)
    # A run at work looks interrupted in the metadata store.
    require_free(root)
    terminal.say(f"training, because {decision.reason}")
    training = train_and_push(terminal, config, root=root, reason=decision.reason, publish=publish)
    show_result(terminal, training)
    return Retraining(decision, training)


def find_reason(config: PipelineConfig, *, root: Path, force: bool = False) -> Decision:
    """Looks for a reason to train without starting a run."""
    images = look(config.input)
    runs = read_runs(root) if (root / METADATA_FILE).is_file() else []
    return decide(
        images,
        attempts(runs),
        config.retrain,
        drift=_find_drift(config.retrain.drift_report),
        now=time.time(),
        force=force,
        unfinished=_unfinished(runs, images.fingerprint),
    )


def attempts(runs: list[Run]) -> list[Attempt]:
    """Returns the facts about finished runs that the decision needs, oldest first.

    A run whose model came from the cache ended, as far as age and drift are concerned, with the
    first run that judged this model.
    """
    found = []
    ended: dict[str, float] = {}
    for run in runs:
        if run.state != FINISHED or run.ingested is None or run.blessed is None:
            continue
        trainer = run.steps.get("Trainer")
        model = str(trainer.output_ids.get("model")) if trainer else run.name
        found.append(
            Attempt(
                run=run.name,
                span=run.ingested.span or 0,
                fingerprint=run.ingested.fingerprint,
                ended=ended.setdefault(model, run.ended),
                blessed=run.blessed,
            )
        )
    return found


def _unfinished(runs: list[Run], fingerprint: str) -> str:
    # A run that was killed before it had its images has changed nothing.
    run = next((each for each in reversed(runs) if each.ingested is not None), None)
    if run is None or run.ingested is None or run.ingested.fingerprint != fingerprint:
        return ""
    if run.state == FINISHED:
        return ""
    return f"run {run.name} {'failed' if run.state == FAILED else 'was interrupted'}"


def _find_drift(path: str | None) -> Drift | None:
    """Reads a drift report; only remote ones need TensorFlow."""
    if path is None:
        return None
    if "://" in path:
        from components.retraining.component import find_drift

        return find_drift(path)
    file = path if path.endswith(".json") else os.path.join(path, _DRIFT_FILE)
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return read_drift(file, text, os.stat(file).st_mtime)
    except ValueError as error:
        raise ConfigError(f"retrain.drift_report: {error}") from error
