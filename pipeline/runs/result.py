"""Defines the result that `vaeline run`, `retrain` and `demo` report at the end of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.model_gate.unlabelled_gain import GAIN
from components.model_gate.verdict import HEADER
from pipeline.runs.artifacts import (
    model_run_folder,
    read_pretraining,
    read_teachers,
    read_warm_start,
)
from pipeline.runs.run import Run


@dataclass(frozen=True)
class TrainingResult:
    """The result of the run that a command started; `Run` has the recorded facts.

    Attributes:
        blessed: whether the gate and ServingCheck blessed the model.
        pushed: folder of the pushed version; empty if the model was refused.
        metrics: of the test split, by name.
        test_images: number of images that the metrics were measured on.
        refusals: a line for each missed bound and for a refused export.
        gate: the gate's verdict in one line.
        checks: a row for each metric: its name, value, bound and verdict.
        verdict: folder of `verdict.json`, which has every class and slice, and `verdict.txt`.
        serving_check: result of ServingCheck in one line; empty without it.
        steps: wall time in seconds of each step, and whether it came from the cache; steps that ran
            side by side overlap, so that the times may add up to more than `seconds`.
        seconds: wall time of the command up to the report.
        labelled: folder of the table that BulkInference wrote; empty if it wrote none.
        not_labelled: reason why BulkInference wrote none although it is configured.
        unlabelled: whether the unlabelled images helped, in one line; empty if it was not measured.
        warm_start: how many weights the training took from which model; empty for a cold start.
        pretraining: what the model learned before the classes; empty without that.
        teachers: whose answers it learned, and how far they agree; empty without teachers.
        pictures: folder of the pictures of the training.
        log: path of the log file.
        report: path of the report; empty if it could not be written.
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
    unlabelled: str
    warm_start: str
    pretraining: str
    teachers: str
    pictures: str
    log: str
    report: str = ""

    @property
    def push_line(self) -> str:
        """The pushed version in one line; the Pusher's cache also names one that was removed."""
        if not self.pushed:
            return "nothing was pushed"
        if not self.steps.get("Pusher", {}).get("cached"):
            return self.pushed
        # Other destinations are in buckets.
        if Path(self.pushed).is_absolute() and not Path(self.pushed).is_dir():
            return f"nothing; {self.pushed}, by an earlier run, was removed"
        return f"{self.pushed}, by an earlier run"

    def as_dict(self) -> dict[str, Any]:
        """Returns the result as JSON-compatible values."""
        return dict(vars(self))


def summarise(
    run: Run, *, step_seconds: Mapping[str, float], seconds: float, log: Path
) -> TrainingResult:
    """Summarises a run that has reached its verdict.

    Args:
        run: The run.
        step_seconds: Wall time of each step, by name.
        seconds: Wall time of the command.
        log: The log file.

    Returns:
        The result, without a report.

    Raises:
        MissingArtifactError: The run has no verdict or no model.
    """
    evaluation, check = run.evaluation, run.serving_check
    labelling = run.steps.get("BulkInference")
    return TrainingResult(
        blessed=evaluation.verdict.blessed and check.blessed,
        pushed=run.pushed,
        metrics=evaluation.metrics,
        test_images=evaluation.test_images,
        refusals=[*evaluation.verdict.refusals, *check.refusals],
        gate=evaluation.verdict.headline(),
        checks=[dict(zip(HEADER, row.row(), strict=True)) for row in evaluation.verdict.checks],
        verdict=evaluation.folder,
        serving_check=check.summary,
        steps={
            name: {"seconds": round(elapsed, 3), "cached": run.steps[name].cached}
            for name, elapsed in step_seconds.items()
        },
        seconds=round(seconds, 3),
        labelled=labelling.output("annotations") if labelling and not run.not_labelled else "",
        not_labelled=run.not_labelled,
        unlabelled=evaluation.verdict.measures.get(GAIN, {}).get("line", ""),
        warm_start=read_warm_start(run),
        pretraining=read_pretraining(run),
        teachers=read_teachers(run),
        pictures=str(model_run_folder(run) / "pictures"),
        log=str(log),
    )
