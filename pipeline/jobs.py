"""Runs the two jobs of the command line: train and push, and label an archive."""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.running.engine_checks import require_engine
from components.image_example_gen.input_overview import OVERVIEW
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource
from components.image_sources.spans import resolve
from components.model_gate.verdict import HEADER
from pipeline.causes import cause
from pipeline.config import PipelineConfig
from pipeline.console import Terminal, breakdown, captured_output, duration, logged, with_breakdown
from pipeline.input_display import show_overview
from pipeline.log_files import new_log_path
from pipeline.runs.run import REASON_NOTE, STOPPED_NOTE, Run
from pipeline.runs.step import STEP_TITLES
from pipeline.stop_signals import STOP, is_stop
from trainer.backbone_weights import check_weights
from trainer.progress import PROGRESS_LOGGER
from trainer.recipes import recipe_line

if TYPE_CHECKING:
    from components.bulk_inference.output.result import BulkResult
    from pipeline.report.run_report import AskedModel
    from pipeline.runs.result import TrainingResult


def train_and_push(
    terminal: Terminal,
    config: PipelineConfig,
    *,
    root: Path,
    reason: str = "",
    publish: Callable[[], None] = lambda: None,
) -> "TrainingResult":
    """Runs the pipeline on this machine and shows its progress.

    Args:
        terminal: Output for the user.
        config: The configuration.
        root: Folder for artifacts, metadata, logs and, by default, pushed models.
        reason: Why this run was started, for the record; empty if a user started it.
        publish: Called after each step, in its thread; see `working_root`.

    Returns:
        The result, with the report.

    Raises:
        InputError: The input or the weights of a backbone cannot be read, or the runner of the
            bulk job or the group of the push cannot be used.
        RootError: The root cannot be written.
        LockedError: Another run holds this root.
        MetadataError: The metadata store cannot be used.
        Exception: The error that stopped the run.
    """
    check_input(config.input)
    if config.bulk.in_pipeline and config.bulk.input is not None:
        check_input(config.bulk.input)
        require_engine(config.bulk)
    check_weights(config.model.backbone_options, download=True)
    if recipe := recipe_line(config.recipe, config.trainer):
        terminal.say(recipe)
    # Imported here, because bulk jobs use this module on machines without TFX.
    from pipeline.local_runner import prepare_root

    root = root.resolve()
    prepare_root(root, config.push.group)
    log_path = new_log_path(root)
    started = time.monotonic()
    with (
        _held(terminal, root),
        logged(terminal, log_path),
        terminal.live("loading TFX") as line,
    ):
        from pipeline.local_runner import run_pipeline
        from pipeline.runs.result import summarise
        from pipeline.runs.store import note_latest_run

        display = _StepDisplay(terminal, line)
        asked: list[AskedModel] = []

        def on_step(name: str, seconds: float | None) -> None:
            display.step(name, seconds)
            if seconds is not None:
                publish()

        def on_judged(judged: Run) -> None:
            # The next step waits for ServingCheck, as a rule. Failures are left to the report.
            with contextlib.suppress(Exception):
                from pipeline.report.run_report import AskedModel

                asked.append(AskedModel(judged))
                asked[0].ask()

        progress = logging.getLogger(PROGRESS_LOGGER)
        progress.addHandler(display)
        begin = time.time()
        try:
            run = run_pipeline(
                config,
                root=root,
                on_step=on_step,
                on_judged=on_judged,
                notes={REASON_NOTE: reason},
            )
        except BaseException as error:
            if is_stop(error):
                _note_stop(root, begin)
            raise
        finally:
            progress.removeHandler(display)
        note_latest_run(root, run.verdict_notes())
    result = summarise(
        run, step_seconds=display.seconds, seconds=time.monotonic() - started, log=log_path
    )
    result = _with_report(terminal, result, run, *asked)
    terminal.table(
        f"gate, on {result.test_images:,} test images: {result.gate}",
        [tuple(check.values()) for check in result.checks],
        header=HEADER,
    )
    return result


@contextlib.contextmanager
def _held(terminal: Terminal, root: Path) -> Iterator[None]:
    """Locks the root, and adapts its records if it was moved or lost files."""
    from pipeline.orchestration.lock import run_lock
    from pipeline.runs.repair import repair_metadata

    with run_lock(root, "a pipeline run"):
        for line in repair_metadata(root).lines():
            terminal.say(line, style="yellow")
        yield


def _note_stop(root: Path, begin: float) -> None:
    """Records that a signal ended the run, whose step TFX may have recorded as failed."""
    from pipeline.runs.store import latest_run, note_latest_run

    with contextlib.suppress(Exception):
        # The run may have been stopped before it was recorded, or because the disk is full.
        if latest_run(root).started >= begin:
            note_latest_run(root, {STOPPED_NOTE: STOP.line})


def _with_report(
    terminal: Terminal, result: "TrainingResult", run: Run, asked: "AskedModel | None" = None
) -> "TrainingResult":
    """Writes the report; a failure is a warning and does not fail the run."""
    with captured_output(Path(result.log)), terminal.live("writing the report"):
        try:
            from pipeline.report.run_report import write_run_report

            if result.labelled:
                _archive_report(terminal, result.labelled)
            return replace(result, report=write_run_report(run, asked=asked))
        except Exception as error:
            logging.getLogger("vaeline").exception("no report")
            terminal.say(f"no report: {cause(error)}", style="yellow")
    return result


def check_input(config: InputConfig) -> None:
    """Opens the first archive, so that a wrong path is reported before the slow start of TFX.

    Raises:
        InputError: There is nothing to read; the message tells why and how to fix it.
    """
    next(ImageSource(resolve(config).config).units())


class _StepDisplay(logging.Handler):
    """Shows a line for each finished step, and the running steps with their progress.

    Args:
        terminal: Output for finished steps.
        line: Function that changes the live line.
    """

    def __init__(self, terminal: Terminal, line: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._terminal = terminal
        self._line = line
        # Title and last progress record of the step that a thread runs.
        self._running: dict[int | None, tuple[str, str]] = {}
        self.seconds: dict[str, float] = {}

    def step(self, name: str, seconds: float | None) -> None:
        """Handles the start (`seconds` is None) or the end of a step, in the step's thread."""
        thread = threading.get_ident()
        if seconds is None:
            self._running[thread] = (STEP_TITLES.get(name, name), "")
        else:
            self.seconds[name] = seconds
            title, detail = self._running.pop(thread)
            self._terminal.say(f"{duration(seconds):>12}  {title}{detail and f'  {detail}'}")
        self._show()

    def emit(self, record: logging.LogRecord) -> None:
        """Handles a progress record of project code."""
        # Beam's threads work for the step of the main thread.
        is_own = record.thread in self._running
        thread = record.thread if is_own else threading.main_thread().ident
        detail = record.getMessage()
        if thread in self._running:
            self._running[thread] = (self._running[thread][0], detail)
        if (overview := getattr(record, OVERVIEW, None)) is not None:
            show_overview(self._terminal, overview)
        self._show()

    def _show(self) -> None:
        steps = [
            f"{title}: {detail}" if detail else title
            for title, detail in list(self._running.values())
        ]
        self._line(" | ".join(steps))


def show_result(terminal: Terminal, result: "TrainingResult") -> None:
    """Prints the last table of a run, after that of the gate: the files and their locations."""
    rows = [
        *(("refused because", refusal) for refusal in result.refusals),
        ("served as trained", result.serving_check),
        ("unlabelled images", "; ".join(filter(None, (result.teachers, result.unlabelled)))),
        ("started from", result.warm_start or result.pretraining),
        ("pushed model", result.push_line),
        ("labelled table", result.labelled),
        ("NOT LABELLED", result.not_labelled),
        ("pictures", result.pictures),
        ("report", result.report or "could not be made; see the log"),
        ("verdict", result.verdict),
        ("time", duration(result.seconds)),
    ]
    terminal.table("pipeline run", [row for row in rows if row[1]])


def classify_archives(terminal: Terminal, config: BulkConfig, *, logs: Path) -> dict[str, Any]:
    """Labels archives with a pushed model and shows the progress.

    Args:
        terminal: Output for the user.
        config: The job; input, model and output are set.
        logs: Folder whose `logs/` subfolder receives the log file.

    Returns:
        Counts, paths and times as JSON-compatible values.

    Raises:
        Exception: The error that stopped the job.
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
        ("rejects", with_breakdown(result.rejects, result.reasons)),
        ("duplicates skipped", f"{result.duplicates:,}"),
        *((("near-duplicates", _near(result)),) if result.near_images else ()),
        *((("ignored", _ignored(result)),) if result.ignored else ()),
        # Without their column they were not computed.
        *((("labels", breakdown(result.labels)),) if result.labels else ()),
        *((("verdicts", breakdown(result.verdicts)),) if result.verdicts else ()),
        *((("findings", _findings(result)),) if result.with_findings else ()),
        *((("drift", _drift(result.drift)),) if result.drift else ()),
        ("model", result.model),
        ("table", result.output),
        *((("report", page),) if page else ()),
        ("time", _bulk_time(result)),
    ]
    terminal.table("labelled archive", rows)
    return {**result.as_dict(), "report": page}


def _near(result: "BulkResult") -> str:
    return f"{result.near_images:,} images in {result.near_groups:,} groups"


def _findings(result: "BulkResult") -> str:
    counts = {name.replace("_", " "): number for name, number in result.findings.items()}
    return with_breakdown(result.with_findings, counts)


def _archive_report(terminal: Terminal, output: str) -> str:
    try:
        from pipeline.report.archive_report import write_archive_report

        return write_archive_report(output)
    except Exception as error:
        logging.getLogger("vaeline").exception("no report")
        terminal.say(f"no report: {cause(error)}", style="yellow")
        return ""


def _drift(report: Mapping[str, Any]) -> str:
    found = "ALARM: see drift.md" if report["alarm"] else "none found"
    return ". ".join(filter(None, (found if report["tests"] else "", report["note"])))


def _bulk_time(result: Any) -> str:
    if not result.members_done_now:
        return f"{duration(result.seconds)}, everything was done before"
    return f"{duration(result.seconds)}, {result.images_per_second:,.0f} images/s with start-up"


def _estimate_rows(estimate: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("sampled", f"{estimate['sampled']:,} members of {estimate['sampled_units']:,} units"),
        ("members", f"{estimate['members']:,} in {estimate['units']:,} units"),
        ("rows", f"{estimate['rows']:,}"),
        ("rejects", f"{estimate['rejects']:,}"),
        ("time", f"{duration(estimate['seconds'])}, {estimate['images_per_second']:,.0f} images/s"),
        ("memory", f"{estimate['memory_bytes'] / 2**20:,.0f} MiB"),
        ("output", f"{estimate['output_bytes'] / 2**20:,.1f} MiB"),
    ]


def _ignored(result: "BulkResult") -> str:
    counts = {reason: entry["count"] for reason, entry in result.ignored_by_reason.items()}
    return with_breakdown(result.ignored, counts)
