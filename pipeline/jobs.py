"""Runs the pipeline for `vaeline run`, `retrain` and `demo`: checks, progress, result, report."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.bulk_inference.running.engine_checks import require_engine
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource
from components.image_sources.spans import resolve
from components.model_gate.verdict import HEADER
from pipeline.config import PipelineConfig
from pipeline.console import Terminal, captured_output, duration, logged, optional_report
from pipeline.labelling import archive_page
from pipeline.log_files import new_log_path
from pipeline.runs.run import REASON_NOTE, STOPPED_NOTE, Run
from pipeline.step_display import StepDisplay
from pipeline.stop_signals import STOP, is_stop
from trainer.backbone_weights import check_weights
from trainer.recipes import recipe_line

if TYPE_CHECKING:
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
    # ML Metadata, and below TFX, are slow to import: wrong settings are reported before.
    from pipeline.local_runner import prepare_root

    root = root.resolve()
    prepare_root(root, config.push.group)
    log_path = new_log_path(root)
    started = time.monotonic()
    early = _EarlyAnswers()
    with (
        _held(terminal, root),
        logged(terminal, log_path),
        terminal.live("loading TFX") as line,
    ):
        from pipeline.local_runner import run_pipeline
        from pipeline.runs.result import summarise
        from pipeline.runs.store import note_latest_run

        display = StepDisplay(terminal, line)

        def on_step(name: str, seconds: float | None) -> None:
            display.step(name, seconds)
            if seconds is not None:
                publish()

        with display.listening(), _stop_noted(root):
            run = run_pipeline(
                config,
                root=root,
                on_step=on_step,
                on_judged=early.ask,
                notes={REASON_NOTE: reason},
            )
        note_latest_run(root, run.verdict_notes())
    result = summarise(
        run, step_seconds=display.seconds, seconds=time.monotonic() - started, log=log_path
    )
    result = _with_report(terminal, result, run, early.asked)
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


@contextlib.contextmanager
def _stop_noted(root: Path) -> Iterator[None]:
    """Records that a signal ended the run, whose step TFX may have recorded as failed."""
    from pipeline.runs.store import latest_run, note_latest_run

    begin = time.time()
    try:
        yield
    except BaseException as error:
        if is_stop(error):
            with contextlib.suppress(Exception):
                # The run may have been stopped before it was recorded, or as the disk is full.
                if latest_run(root).started >= begin:
                    note_latest_run(root, {STOPPED_NOTE: STOP.line})
        raise


class _EarlyAnswers:
    """Asks the model what the report shows of it while the run waits for ServingCheck.

    Attributes:
        asked: The model with its answers; None if it was not asked.
    """

    def __init__(self) -> None:
        self.asked: AskedModel | None = None

    def ask(self, judged: Run) -> None:
        """Asks the model of a run that ModelGate has judged; failures are left to the report."""
        with contextlib.suppress(Exception):
            from pipeline.report.run_report import AskedModel

            self.asked = AskedModel(judged)
            self.asked.ask()


def _with_report(
    terminal: Terminal, result: "TrainingResult", run: Run, asked: "AskedModel | None"
) -> "TrainingResult":
    """Writes the report; a failure is a warning and does not fail the run."""
    with captured_output(Path(result.log)), terminal.live("writing the report"):
        if result.labelled:
            archive_page(terminal, result.labelled)
        with optional_report(terminal):
            from pipeline.report.run_report import write_run_report

            return replace(result, report=write_run_report(run, asked=asked))
    return result


def check_input(config: InputConfig) -> None:
    """Opens the first archive, so that a wrong path is reported before the slow start of TFX.

    Raises:
        InputError: There is nothing to read; the message tells why and how to fix it.
    """
    next(ImageSource(resolve(config).config).units())


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
