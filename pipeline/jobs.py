"""The two jobs as the command line runs them: train and push, and label an archive."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.bulk_inference.config import BulkConfig
from components.image_sources.config import InputConfig
from components.image_sources.sources import open_source
from components.image_sources.spans import resolve
from pipeline.config import PipelineConfig
from pipeline.console import Terminal, duration, logged, new_log_path
from pipeline.local_runner import RunResult, note_latest_run, prepare_root
from pipeline.orchestration.lock import run_lock
from pipeline.orchestration.runs import METRIC_NOTE, REASON_NOTE, REFUSALS_NOTE
from trainer.progress import PROGRESS_LOGGER

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
        test_images: how many images these were measured on.
        refusals: a line for each bound that was missed.
        steps: for each step its wall time, seconds, and whether it came from the cache.
        seconds: wall time of the run.
        pictures: folder of the pictures that training made.
        log: the log file.
    """

    blessed: bool
    pushed: str
    metrics: dict[str, float]
    test_images: int
    refusals: list[str]
    steps: dict[str, dict[str, Any]]
    seconds: float
    pictures: str
    log: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the outcome in a form for JSON."""
        return dict(vars(self))


def train_and_push(
    terminal: Terminal, config: PipelineConfig, *, root: Path, reason: str = ""
) -> Outcome:
    """Runs the pipeline on this machine and shows what happens.

    Args:
        terminal: Where it is shown.
        config: What to do.
        root: Folder for artifacts, metadata, logs and, by default, pushed models.
        reason: Why this run was started, for the record; empty when a person started it.

    Returns:
        What came of it.

    Raises:
        LockedError: Another run is at work on this root.
        Exception: What stopped the run.
    """
    check_input(config.input)
    prepare_root(root)
    log_path = new_log_path(root)
    started = time.monotonic()
    with (
        run_lock(root, "a pipeline run"),
        logged(terminal, log_path),
        terminal.live("loading TFX") as line,
    ):
        from pipeline.local_runner import run_pipeline
        from pipeline.outcome import read_evaluation

        display = _StepDisplay(terminal, line)
        progress = logging.getLogger(PROGRESS_LOGGER)
        progress.addHandler(display)
        try:
            run = run_pipeline(config, root=root, on_step=display.step, notes={REASON_NOTE: reason})
        finally:
            progress.removeHandler(display)
        evaluation = read_evaluation(run.steps["Evaluator"], config.evaluation)
        note_latest_run(
            root,
            {
                **{f"{METRIC_NOTE}{name}": value for name, value in evaluation.metrics.items()},
                REFUSALS_NOTE: "\n".join(evaluation.refusals),
            },
        )
    seconds = time.monotonic() - started
    outcome = Outcome(
        blessed=evaluation.blessed,
        pushed=_pushed_version(run),
        metrics=evaluation.metrics,
        test_images=evaluation.test_images,
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


def check_input(config: InputConfig) -> None:
    """Opens the first archive, so that a wrong path is told at once and not after TFX's start.

    Raises:
        InputError: There is nothing to read; the message says what and what to do.
    """
    next(open_source(resolve(config).config).units())


class _StepDisplay(logging.Handler):
    """A line for each step that ends, and the running one with what it says of its progress.

    Args:
        terminal: Where lines are printed.
        line: Changes the live line.
    """

    def __init__(self, terminal: Terminal, line: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._terminal = terminal
        self._line = line
        self._title = ""
        self._detail = ""

    def step(self, name: str, seconds: float | None) -> None:
        """Receives the start (`seconds` is None) and the end of a step."""
        if seconds is None:
            self._title, self._detail = _STEP_TITLES.get(name, name), ""
            self._line(self._title)
        else:
            detail = f"  {self._detail}" if self._detail else ""
            self._terminal.say(f"{duration(seconds):>12}  {self._title}{detail}")

    def emit(self, record: logging.LogRecord) -> None:
        """Receives what project code says of its progress."""
        self._detail = record.getMessage()
        self._line(f"{self._title}: {self._detail}")


def show_outcome(terminal: Terminal, outcome: Outcome) -> None:
    """Prints the table that ends a run."""
    rows = [
        ("gate", "blessed" if outcome.blessed else "REFUSED"),
        *((name, f"{value:.4f}") for name, value in outcome.metrics.items()),
        ("test images", f"{outcome.test_images:,}"),
        *(("refused because", refusal) for refusal in outcome.refusals),
        ("pushed model", outcome.pushed or "nothing was pushed"),
        ("pictures", outcome.pictures),
        ("time", duration(outcome.seconds)),
    ]
    terminal.table("pipeline run", rows)


def _pushed_version(run: RunResult) -> str:
    properties = run.steps["Pusher"].properties["pushed_model"][0]
    return str(properties.get("pushed_destination", ""))


def classify_archives(terminal: Terminal, config: BulkConfig, *, logs: Path) -> dict[str, Any]:
    """Labels archives with a pushed model and shows what happens.

    Args:
        terminal: Where it is shown.
        config: The job; input, model and output are set.
        logs: The log file goes into `logs/` in this folder.

    Returns:
        Counts, places and times, in a form for JSON.

    Raises:
        Exception: What stopped the job.
    """
    log_path = new_log_path(logs)
    with logged(terminal, log_path), terminal.live() as line:
        from components.bulk_inference.job import run_bulk

        result = run_bulk(config, progress=lambda event: line(_bulk_line(event)), command=sys.argv)
    for note in result.notes:
        terminal.say(note, style="yellow")
    if result.estimate is not None:
        terminal.table("estimate for the whole job", _estimate_rows(result.estimate))
        return result.as_dict()
    kept = f" ({result.reused:,} rows kept)" if result.reused else ""
    drift = (result.drift or {}).get("alarm")
    rows = [
        ("members", f"{result.members:,}{kept}"),
        ("rows", f"{result.rows:,}"),
        ("rejects", _with_breakdown(result.rejects, result.reasons)),
        ("duplicates skipped", f"{result.duplicates:,}"),
        ("labels", _breakdown(result.labels)),
        ("verdicts", _breakdown(result.verdicts)),
        *((("drift", "ALARM: see drift.md" if drift else "none found"),) if result.drift else ()),
        ("model", result.model),
        ("table", result.output),
        ("time", _bulk_time(result)),
    ]
    terminal.table("labelled archive", rows)
    return result.as_dict()


def _bulk_time(result: Any) -> str:
    if not result.members_done_now:
        return f"{duration(result.seconds)}, everything was done before"
    return f"{duration(result.seconds)}, {result.images_per_second:,.0f} images/s with start-up"


def _estimate_rows(estimate: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("sampled", f"{estimate['sampled']:,} members"),
        ("members", f"{estimate['members']:,} in {estimate['units']:,} units"),
        ("rows", f"{estimate['rows']:,}"),
        ("rejects", f"{estimate['rejects']:,}"),
        ("time", f"{duration(estimate['seconds'])}, {estimate['images_per_second']:,.0f} images/s"),
        ("memory", f"{estimate['memory_bytes'] / 2**20:,.0f} MiB"),
        ("output", f"{estimate['output_bytes'] / 2**20:,.1f} MiB"),
    ]


def _bulk_line(event: Any) -> str:
    total = f" of {event.total:,}" if event.total else ""
    eta = f", {duration(event.eta_secs)} left" if event.eta_secs is not None else ""
    return (
        f"{event.members:,}{total} images, {event.images_per_second:,.0f} images/s, "
        f"{event.rejects:,} rejects{eta}"
    )


def _with_breakdown(count: int, parts: Mapping[str, int]) -> str:
    return f"{count:,}: {_breakdown(parts)}" if parts else f"{count:,}"


def _breakdown(counts: Mapping[str, int], most: int = 12) -> str:
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} ({count:,})" for name, count in largest[:most])
    more = f", {len(largest) - most} more" if len(largest) > most else ""
    return shown + more
