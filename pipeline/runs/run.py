"""Describes a run of the pipeline (state, verdict and files) for commands and reports.

`store.py` reads runs. This module does not import ML Metadata, so that bulk jobs run without it.
"""

import datetime
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pipeline.runs.step import FAILED, PUSHED_MODEL, RUNNING, IngestedImages, Step, span_title
from pipeline.runs.verdict import Evaluation, MissingArtifactError, ServingVerdict, read_evaluation

ARTIFACTS: Final = "artifacts"
"""Name of the folder of all artifacts, in the root of the runs."""
CONFIG_FILE: Final = "config.yaml"
"""Name of the file with the configuration of the latest run, in the root of the runs."""

FINISHED, STOPPED = "finished", "stopped"
"""States of a run in addition to a step's `FAILED` and `RUNNING`; a stopped run was killed."""

REASON_NOTE: Final = "reason"
NOT_LABELLED_NOTE: Final = "not_labelled"
STOPPED_NOTE: Final = "stopped"
"""Note of a run that a signal ended; TFX may have recorded its step as failed."""
_REFUSALS_NOTE: Final = "refusals"
_METRIC_NOTE: Final = "metric:"

_BLESSING: Final = "blessing"
# The gate's blessing has this property; that of ServingCheck does not.
_GATE_MARK: Final = "current_model_id"


@dataclass(frozen=True)
class Run:
    """One run of a pipeline.

    Attributes:
        name: its name in the store: the local time of its start.
        started: seconds since 1970-01-01 UTC.
        root: folder of the runs.
        steps: by name, in the order in which they began.
        notes: notes that `store.note_latest_run` attached.
        is_active: whether a process holds the root and no later run is recorded.
    """

    name: str
    started: float
    root: Path
    steps: dict[str, Step]
    notes: dict[str, Any] = field(default_factory=dict)
    is_active: bool = False

    @property
    def seconds(self) -> float:
        """Wall time from the start of the first step to the end of the last."""
        return round(self.ended - self.started, 3) if self.steps else 0.0

    @property
    def ended(self) -> float:
        """End of the last step, seconds since 1970-01-01 UTC."""
        return max((step.started + step.seconds for step in self.steps.values()), default=0.0)

    @property
    def state(self) -> str:
        """State of the run: `finished`, `failed`, `running` or `stopped`.

        TFX marks a step as running before it executes it, and as done, cached or failed afterwards.
        A finished run has blessed or refused a model and has completed the step that pushes.
        """
        states = {step.state for step in self.steps.values()}
        if FAILED in states:
            return STOPPED if STOPPED_NOTE in self.notes else FAILED
        is_whole = bool(states) and RUNNING not in states
        if is_whole and any(PUSHED_MODEL in step.outputs for step in self.steps.values()):
            return FINISHED
        return RUNNING if self.is_active else STOPPED

    def state_of(self, step: Step) -> str:
        """Returns the state of a step; `stopped`, which TFX does not know, if a signal ended it."""
        is_stopped = self.state == STOPPED and step.state in (FAILED, RUNNING)
        return STOPPED if is_stopped else step.state

    @property
    def cached_steps(self) -> int:
        """Number of steps that came from the cache."""
        return sum(step.cached for step in self.steps.values())

    @property
    def reason(self) -> str:
        """Reason for the start of the run; empty if a user started it."""
        return str(self.notes.get(REASON_NOTE, ""))

    @property
    def ingested(self) -> IngestedImages | None:
        """The images that were ingested; None if that step did not complete."""
        found = (step.ingested for step in reversed(self.steps.values()))
        return next((images for images in found if images is not None), None)

    @property
    def span(self) -> int | None:
        """The latest span of the images; None without spans."""
        return self.ingested.span if self.ingested else None

    @property
    def span_title(self) -> str:
        """The latest span as its archives name it, see `step.span_title`; empty without spans."""
        images = self.ingested
        return span_title(images.span, images.archives) if images else ""

    @property
    def images(self) -> int | None:
        """Number of ingested images; None if that step did not complete."""
        return self.ingested.count if self.ingested else None

    @cached_property
    def evaluation(self) -> Evaluation:
        """The gate's evaluation.

        Raises:
            MissingArtifactError: The verdict is missing or cannot be read.
        """
        folders = [
            folder
            for step in reversed(self.steps.values())
            for folder in map(self.find, step.outputs.get(_BLESSING, []))
            if folder is not None
        ]
        return read_evaluation(folders)

    @property
    def serving_check(self) -> ServingVerdict:
        """The verdict of ServingCheck."""
        step = self.steps.get("ServingCheck")
        found = step.properties.get(_BLESSING) if step else None
        return ServingVerdict.from_properties(found[0]) if found else ServingVerdict()

    @property
    def blessed(self) -> bool | None:
        """Whether the gate and ServingCheck blessed the model; None before the gate's verdict.

        The Evaluator only measures; its own blessing artifact has no verdict.
        """
        blessings = [
            found
            for step in self.steps.values()
            for found in step.properties.get(_BLESSING, [])
            if "blessed" in found
        ]
        if not any(_GATE_MARK in blessing for blessing in blessings):
            return None
        return all(blessing.get("blessed") == 1 for blessing in blessings)

    @property
    def verdict(self) -> str:
        """The value of `blessed` in words."""
        return {None: "-", True: "blessed", False: "REFUSED"}[self.blessed]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the test split by name; read from the gate's file if none were noted."""
        noted = {
            name.removeprefix(_METRIC_NOTE): float(value)
            for name, value in self.notes.items()
            if name.startswith(_METRIC_NOTE)
        }
        # Notes have another order in each process.
        return dict(sorted((noted or self._evaluated().metrics).items()))

    @property
    def ended_in(self) -> str:
        """The step in which a run failed or was stopped; empty for other runs."""
        ends = {FAILED: (FAILED,), STOPPED: (FAILED, RUNNING)}.get(self.state, ())
        return next((step.name for step in self.steps.values() if step.state in ends), "")

    @property
    def refusals(self) -> list[str]:
        """A line for each missed bound and for a refused export."""
        noted = str(self.notes.get(_REFUSALS_NOTE, "")).splitlines()
        return noted or [*self._evaluated().verdict.refusals, *self.serving_check.refusals]

    @property
    def pushed(self) -> str:
        """Folder of the pushed version; empty if nothing was pushed."""
        step = self.steps.get("Pusher")
        return "".join(step.pushed[:1]) if step else ""

    @property
    def not_labelled(self) -> str:
        """Reason why BulkInference labelled nothing; empty if it did or is not configured."""
        return str(self.notes.get(NOT_LABELLED_NOTE, ""))

    def verdict_notes(self) -> dict[str, str | float]:
        """Returns notes that preserve `metrics` and `refusals` when the artifacts are removed."""
        metrics = {f"{_METRIC_NOTE}{name}": value for name, value in self.metrics.items()}
        return {**metrics, _REFUSALS_NOTE: "\n".join(self.refusals)}

    def folder(self, step: str, output: str) -> Path:
        """Returns the folder of the first artifact of a step's output.

        Raises:
            MissingArtifactError: The step did not run or wrote nothing, or the folder is gone.
        """
        uris = self.steps[step].outputs.get(output, []) if step in self.steps else []
        if not uris:
            raise MissingArtifactError(f"{step} left no {output}.")
        folder = self.find(uris[0])
        if folder is None:
            raise MissingArtifactError(f"The {output} of {step} is gone: {uris[0]}")
        return folder

    def find(self, uri: str) -> Path | None:
        """Returns an artifact's folder; None if it is gone."""
        return Path(uri) if os.path.isdir(uri) else None

    def as_dict(self) -> dict[str, Any]:
        """Returns the run as JSON-compatible values."""
        zone = datetime.datetime.fromtimestamp(self.started).astimezone()
        return {
            "run": self.name,
            "started": zone.isoformat(timespec="seconds"),
            "seconds": self.seconds,
            "state": self.state,
            "ended_in": self.ended_in,
            "reason": self.reason,
            "span": self.span,
            "images": self.images,
            "metrics": self.metrics,
            "blessed": self.blessed,
            "refusals": self.refusals,
            "pushed": self.pushed,
            "cached": self.cached_steps,
            "steps": [
                {
                    "name": step.name,
                    "state": self.state_of(step),
                    "seconds": round(step.seconds, 3),
                    "inputs": step.inputs,
                    "outputs": step.outputs,
                }
                for step in self.steps.values()
            ],
        }

    def _evaluated(self) -> Evaluation:
        """Returns `evaluation`, or an empty one if it is missing."""
        try:
            return self.evaluation
        except MissingArtifactError:
            return Evaluation.empty()
