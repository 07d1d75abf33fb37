"""`vaeline retrain`: looks for a reason in the metadata store; with one, runs the pipeline.

A day without a reason costs a second or two: neither TFX nor TensorFlow is imported.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.retraining.reasons import Attempt, Decision, Drift, decide, look, read_drift
from pipeline.config import ConfigError, PipelineConfig
from pipeline.console import Terminal
from pipeline.jobs import Outcome, show_outcome, train_and_push
from pipeline.local_runner import METADATA_FILE
from pipeline.orchestration.runs import FINISHED, is_blessed, only_property, state_of
from pipeline.run_record import Run, read_runs, sqlite_connection

_DRIFT_FILE = "drift.json"


@dataclass(frozen=True)
class Retraining:
    """What came of a start.

    Attributes:
        decision: whether there was a reason, and which.
        outcome: of the run; None where there was no reason.
    """

    decision: Decision
    outcome: Outcome | None

    def as_dict(self) -> dict[str, Any]:
        """Returns it in a form for JSON."""
        outcome = self.outcome.as_dict() if self.outcome is not None else None
        return {"trained": self.decision.train, "reason": self.decision.reason, "run": outcome}


def retrain(
    terminal: Terminal, config: PipelineConfig, *, root: Path, force: bool = False
) -> Retraining:
    """Trains if there is a reason to; says why (not).

    Args:
        terminal: Where it is said.
        config: What to do; `retrain` says what a reason is.
        root: Folder of the runs.
        force: Train whatever is known.

    Returns:
        What came of it.

    Raises:
        InputError: The images can't be found.
        LockedError: Another run is at work.
        Exception: What stopped the run.
    """
    decision = find_reason(config, root=root, force=force)
    if not decision.train:
        terminal.say(f"nothing to do: {decision.reason}")
        return Retraining(decision, None)
    terminal.say(f"training, because {decision.reason}")
    outcome = train_and_push(terminal, config, root=root, reason=decision.reason)
    show_outcome(terminal, outcome)
    return Retraining(decision, outcome)


def find_reason(config: PipelineConfig, *, root: Path, force: bool = False) -> Decision:
    """Looks for a reason to train; starts nothing."""
    images = look(config.input)
    store = root / METADATA_FILE
    runs = read_runs(sqlite_connection(store)) if store.is_file() else []
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
    """Gives the runs that came to a verdict, oldest first."""
    found = []
    for run in runs:
        if state_of(run, is_running=False) != FINISHED:
            continue
        steps = list(run.steps.values())
        examples = only_property(steps, "examples")
        blessed = is_blessed(steps)
        if examples is None or blessed is None:
            continue
        found.append(
            Attempt(
                run=run.name,
                span=int(examples.get("span", 0)),
                fingerprint=str(examples.get("input_fingerprint", "")),
                ended=max(step.started + step.seconds for step in steps),
                blessed=blessed,
            )
        )
    return found


def _unfinished(runs: list[Run], fingerprint: str) -> str:
    if not runs or state_of(runs[-1], is_running=False) == FINISHED:
        return ""
    examples = only_property(list(runs[-1].steps.values()), "examples")
    is_same = examples is not None and examples.get("input_fingerprint") == fingerprint
    return runs[-1].name if is_same else ""


def _find_drift(path: str | None) -> Drift | None:
    """Reads a drift report; TensorFlow is imported for remote ones only."""
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
