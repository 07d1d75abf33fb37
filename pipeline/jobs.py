"""The two jobs as the command line runs them: train and push, and label an archive."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.bulk_inference.config import BulkConfig
from components.image_sources.config import InputConfig
from components.image_sources.sources import open_source
from components.image_sources.spans import resolve
from components.model_gate.verdict import HEADER
from pipeline.causes import cause
from pipeline.config import PipelineConfig
from pipeline.console import Terminal, captured_output, duration, logged, new_log_path
from trainer.progress import PROGRESS_LOGGER

if TYPE_CHECKING:
    from pipeline.local_runner import RunResult

STEP_TITLES = {
    "ImageExampleGen": "ingest images",
    "StatisticsGen": "compute statistics",
    "SchemaGen": "infer the schema",
    "ImportSchemaGen": "read the schema",
    "ExampleValidator": "look for anomalies",
    "AnomalyGate": "stop on anomalies",
    "Transform": "learn the preprocessing",
    "Tuner": "search for the best options",
    "base_model": "find the model to start from",
    "Trainer": "train and calibrate",
    "ServingCheck": "check the export as a server loads it",
    "baseline_model": "find the last blessed model",
    "Evaluator": "evaluate",
    "ModelGate": "judge by the gate",
    "Pusher": "push",
    "vertex_pusher": "deploy to Vertex",
    "BulkInference": "label the archive",
}
"""What a person calls the steps; the names in the DAG are TFX's."""


@dataclass(frozen=True)
class Outcome:
    """What a pipeline run came to.

    Attributes:
        blessed: the gate let the model pass.
        pushed: folder of the pushed version; empty when it was refused.
        metrics: of the test split, by name.
        test_images: how many images these were measured on.
        refusals: a line for each bound that was missed, and for a failed check of the export.
        gate: the verdict in a line.
        checks: a row for each metric: its name, value, bound and verdict.
        verdict: folder of `verdict.json`, which has every class and slice, and `verdict.txt`.
        serving_check: what the check of the export found, in one line; empty without one.
        steps: for each step its wall time, seconds, and whether it came from the cache.
        seconds: wall time of the run.
        labelled: folder of the table that BulkInference wrote; empty where it did not.
        not_labelled: why it wrote none, though it is configured.
        warm_start: how many weights the training took from which model; empty for a cold start.
        pictures: folder of the pictures that training made.
        log: the log file.
        report: the page that shows the run; empty where it could not be made.
    """

    blessed: bool
    pushed: str
    metrics: dict[str, float]
    test_images: int
    refusals: list[str]
    gate: str
    checks: list[dict[str, str]]
    verdict: str
    serving_check: str
    steps: dict[str, dict[str, Any]]
    seconds: float
    labelled: str
    not_labelled: str
    warm_start: str
    pictures: str
    log: str
    report: str = ""

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
    if config.bulk.in_pipeline and config.bulk.input is not None:
        check_input(config.bulk.input)
    # Bulk jobs come through this module on machines that have no TFX.
    from pipeline.local_runner import prepare_root
    from pipeline.orchestration.lock import run_lock

    prepare_root(root)
    log_path = new_log_path(root)
    started = time.monotonic()
    with (
        run_lock(root, "a pipeline run"),
        logged(terminal, log_path),
        terminal.live("loading TFX") as line,
    ):
        from pipeline.local_runner import note_latest_run, run_pipeline
        from pipeline.orchestration.runs import METRIC_NOTE, REASON_NOTE, REFUSALS_NOTE
        from pipeline.outcome import read_evaluation, read_serving_check, read_warm_start

        display = _StepDisplay(terminal, line)
        progress = logging.getLogger(PROGRESS_LOGGER)
        progress.addHandler(display)
        try:
            run = run_pipeline(config, root=root, on_step=display.step, notes={REASON_NOTE: reason})
        finally:
            progress.removeHandler(display)
        evaluation = read_evaluation(run.steps["ModelGate"])
        check = read_serving_check(run.steps.get("ServingCheck"))
        note_latest_run(
            root,
            {
                **{f"{METRIC_NOTE}{name}": value for name, value in evaluation.metrics.items()},
                REFUSALS_NOTE: "\n".join([*evaluation.verdict.refusals, *check.refusals]),
            },
        )
    seconds = time.monotonic() - started
    verdict = evaluation.verdict
    outcome = Outcome(
        blessed=verdict.blessed and check.blessed,
        pushed=_pushed_version(run),
        metrics=evaluation.metrics,
        test_images=evaluation.test_images,
        refusals=[*verdict.refusals, *check.refusals],
        gate=verdict.headline(),
        checks=[dict(zip(HEADER, row.row(), strict=True)) for row in verdict.checks],
        verdict=evaluation.folder,
        serving_check=check.summary,
        steps={
            name: {"seconds": round(run.seconds[name], 3), "cached": run.steps[name].cached}
            for name in run.seconds
        },
        seconds=round(seconds, 3),
        labelled="" if run.not_labelled else _labelled_table(run),
        not_labelled=run.not_labelled,
        warm_start=read_warm_start(run.steps["Trainer"]),
        pictures=str(Path(run.steps["Trainer"].output("model_run")) / "pictures"),
        log=str(log_path),
    )
    outcome = _with_report(terminal, outcome, root=root)
    terminal.table(
        f"gate, on {outcome.test_images:,} test images: {outcome.gate}",
        [tuple(check.values()) for check in outcome.checks],
        header=HEADER,
    )
    return outcome


def _with_report(terminal: Terminal, outcome: Outcome, *, root: Path) -> Outcome:
    """Writes the report; one that fails costs a warning and not the run."""
    with captured_output(Path(outcome.log)), terminal.live("writing the report"):
        try:
            from pipeline.report.run_artifacts import read_latest
            from pipeline.report.run_report import write_run_report

            if outcome.labelled:
                _archive_report(terminal, outcome.labelled)
            return replace(outcome, report=str(write_run_report(read_latest(root))))
        except Exception as error:
            logging.getLogger("vaeline").exception("no report")
            terminal.say(f"no report: {cause(error)}", style="yellow")
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
            self._title, self._detail = STEP_TITLES.get(name, name), ""
            self._line(self._title)
        else:
            detail = f"  {self._detail}" if self._detail else ""
            self._terminal.say(f"{duration(seconds):>12}  {self._title}{detail}")

    def emit(self, record: logging.LogRecord) -> None:
        """Receives what project code says of its progress."""
        self._detail = record.getMessage()
        self._line(f"{self._title}: {self._detail}")


def show_outcome(terminal: Terminal, outcome: Outcome) -> None:
    """Prints the table that ends a run, behind the gate's: what there is, and where."""
    rows = [
        *(("refused because", refusal) for refusal in outcome.refusals),
        *((("served as trained", outcome.serving_check),) if outcome.serving_check else ()),
        *((("started from", outcome.warm_start),) if outcome.warm_start else ()),
        ("pushed model", outcome.pushed or "nothing was pushed"),
        *((("labelled table", outcome.labelled),) if outcome.labelled else ()),
        *((("NOT LABELLED", outcome.not_labelled),) if outcome.not_labelled else ()),
        ("pictures", outcome.pictures),
        ("report", outcome.report or "could not be made; see the log"),
        ("verdict", outcome.verdict),
        ("time", duration(outcome.seconds)),
    ]
    terminal.table("pipeline run", rows)


def _pushed_version(run: "RunResult") -> str:
    properties = run.steps["Pusher"].properties["pushed_model"][0]
    return str(properties.get("pushed_destination", ""))


def _labelled_table(run: "RunResult") -> str:
    step = run.steps.get("BulkInference")
    return step.output("annotations") if step else ""


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

        result = run_bulk(config, progress=lambda event: line(event.line()), command=sys.argv)
        page = ""
        if config.report and result.estimate is None:
            page = _archive_report(terminal, config.output)
    for note in result.notes:
        terminal.say(note, style="yellow")
    if result.estimate is not None:
        terminal.table("estimate for the whole job", _estimate_rows(result.estimate))
        return result.as_dict()
    kept = f" ({result.reused:,} rows kept)" if result.reused else ""
    rows = [
        ("members", f"{result.members:,}{kept}"),
        ("rows", f"{result.rows:,}"),
        ("rejects", _with_breakdown(result.rejects, result.reasons)),
        ("duplicates skipped", f"{result.duplicates:,}"),
        ("labels", _breakdown(result.labels)),
        ("verdicts", _breakdown(result.verdicts)),
        *((("drift", _drift(result.drift)),) if result.drift else ()),
        ("model", result.model),
        ("table", result.output),
        *((("report", page),) if page else ()),
        ("time", _bulk_time(result)),
    ]
    terminal.table("labelled archive", rows)
    return {**result.as_dict(), "report": page}


def _archive_report(terminal: Terminal, output: str) -> str:
    try:
        from pipeline.report.archive_report import write_archive_report

        return write_archive_report(output)
    except Exception as error:
        logging.getLogger("vaeline").exception("no report")
        terminal.say(f"no report: {cause(error)}", style="yellow")
        return ""


def _drift(report: Mapping[str, Any]) -> str:
    if not report["tests"]:
        return str(report["note"])
    return "ALARM: see drift.md" if report["alarm"] else "none found"


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


def _with_breakdown(count: int, parts: Mapping[str, int]) -> str:
    return f"{count:,}: {_breakdown(parts)}" if parts else f"{count:,}"


def _breakdown(counts: Mapping[str, int], most: int = 12) -> str:
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} ({count:,})" for name, count in largest[:most])
    more = f", {len(largest) - most} more" if len(largest) > most else ""
    return shown + more
