"""The two jobs as the command line runs them: train and push, and label an archive."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import PipelineConfig, parse_section
from pipeline.console import Terminal, duration, logged, new_log_path
from pipeline.local_runner import RunResult, prepare_root

# What a person calls the steps; the names in the DAG are TFX's.
_STEP_TITLES = {
    "ImageExampleGen": "ingest images",
    "StatisticsGen": "compute statistics",
    "SchemaGen": "infer the schema",
    "ImportSchemaGen": "read the schema",
    "ExampleValidator": "look for anomalies",
    "AnomalyGate": "stop on anomalies",
    "Transform": "learn the preprocessing",
    "Trainer": "train and calibrate",
    "baseline_model": "find the last blessed model",
    "Evaluator": "evaluate against the gate",
    "Pusher": "push",
}


@dataclass(frozen=True)
class Outcome:
    """What a pipeline run came to.

    Attributes:
        blessed: the gate let the model pass.
        pushed: folder of the pushed version; empty when it was refused.
        metrics: of the test split, by name.
        refusals: a line for each bound that was missed.
        steps: for each step its wall time, seconds, and whether it came from the cache.
        seconds: wall time of the run.
        pictures: folder of the pictures that training made.
        log: the log file.
    """

    blessed: bool
    pushed: str
    metrics: dict[str, float]
    refusals: list[str]
    steps: dict[str, dict[str, Any]]
    seconds: float
    pictures: str
    log: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the outcome in a form for JSON."""
        return dict(vars(self))


def train_and_push(terminal: Terminal, config: PipelineConfig, *, root: Path) -> Outcome:
    """Runs the pipeline on this machine and shows what happens.

    Args:
        terminal: Where it is shown.
        config: What to do.
        root: Folder for artifacts, metadata, logs and, by default, pushed models.

    Returns:
        What came of it.

    Raises:
        Exception: What stopped the run.
    """
    prepare_root(root)
    log_path = new_log_path(root)
    started = time.monotonic()
    with logged(terminal, log_path):
        with terminal.status("loading TFX"):
            from pipeline.local_runner import run_pipeline
            from pipeline.outcome import read_evaluation
        steps_shown = StepDisplay(terminal)
        run = run_pipeline(config, root=root, on_step=steps_shown)
        evaluation = read_evaluation(run.steps["Evaluator"], config.evaluation)
    seconds = time.monotonic() - started
    outcome = Outcome(
        blessed=evaluation.blessed,
        pushed=_pushed_version(run),
        metrics=evaluation.metrics,
        refusals=evaluation.refusals,
        steps={
            name: {"seconds": round(run.seconds[name], 3), "cached": run.steps[name].cached}
            for name in run.seconds
        },
        seconds=round(seconds, 3),
        pictures=str(Path(run.steps["Trainer"].output("model_run")) / "pictures"),
        log=str(log_path),
    )
    show_outcome(terminal, outcome)
    return outcome


class StepDisplay:
    """Prints a line for each step that ends.

    Args:
        terminal: Where it is printed.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def __call__(self, name: str, seconds: float | None) -> None:
        """Receives the start (`seconds` is None) and the end of a step."""
        if seconds is not None:
            title = _STEP_TITLES.get(name, name)
            self._terminal.say(f"{duration(seconds):>12}  {title}")


def show_outcome(terminal: Terminal, outcome: Outcome) -> None:
    """Prints the table that ends a run."""
    rows = [
        ("gate", "blessed" if outcome.blessed else "REFUSED"),
        *((name, f"{value:.4f}") for name, value in outcome.metrics.items()),
        *(("refused because", refusal) for refusal in outcome.refusals),
        ("pushed model", outcome.pushed or "nothing was pushed"),
        ("pictures", outcome.pictures),
        ("time", duration(outcome.seconds)),
    ]
    terminal.table("pipeline run", rows)


def _pushed_version(run: RunResult) -> str:
    properties = run.steps["Pusher"].properties["pushed_model"][0]
    return str(properties.get("pushed_destination", ""))


def classify_archives(
    terminal: Terminal,
    *,
    archives: Sequence[str],
    model: str,
    output: str,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """Labels archives with a pushed model and shows what happens."""
    raise SystemExit(0)
