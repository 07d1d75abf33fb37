"""Defines a step of a run, and the titles of the steps for users."""

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

DONE, CACHED, FAILED, RUNNING = "done", "cached", "failed", "running"
"""States of a step. A step that was killed stays `running`; see `Run.state_of`."""

PUSHED_MODEL: Final = "pushed_model"
"""Name of the output of steps that push."""
_EXAMPLES: Final = "examples"

LABELLED_ONLY_TRAINER: Final = "LabelledOnlyTrainer"
LABELLED_ONLY_EVALUATOR: Final = "LabelledOnlyEvaluator"
"""Steps that train and measure a second model without the unlabelled images."""

STEP_TITLES: Final = {
    "ImageExampleGen": "ingest images",
    "StatisticsGen": "compute statistics",
    "SchemaGen": "infer the schema",
    "ImportSchemaGen": "read the schema",
    "ExampleValidator": "look for anomalies",
    "AnomalyGate": "stop on anomalies",
    "Transform": "learn the preprocessing",
    "Tuner": "search for the best options",
    "base_model": "find the model to start from",
    LABELLED_ONLY_TRAINER: "train on labelled images only",
    "Trainer": "train and calibrate",
    "ServingCheck": "check the export as a server loads it",
    "baseline_model": "find the last blessed model",
    "Evaluator": "evaluate",
    LABELLED_ONLY_EVALUATOR: "compare with labelled images only",
    "ModelGate": "judge by the gate",
    "Pusher": "push",
    "vertex_pusher": "deploy to Vertex",
    "BulkInference": "label the archive",
}
"""Titles of the steps for users, by their names in the DAG, in the order of the DAG."""


@dataclass(frozen=True)
class IngestedImages:
    """The images that a run ingested.

    Attributes:
        span: the latest span; None without spans.
        count: number of images; None if it was not recorded.
        fingerprint: digest of the input's content.
        archives: paths that they came from; with patterns of spans if the step was cached.
    """

    span: int | None
    count: int | None
    fingerprint: str
    archives: tuple[str, ...] = ()


def span_title(span: int | None, archives: Sequence[str]) -> str:
    """Returns a span as its archives name it: a date, or its number; empty without spans.

    TFX counts dates as days since 1970-01-01. Only the paths tell whether a number is one.
    """
    if not span:
        return ""
    try:
        date = datetime.date(1970, 1, 1) + datetime.timedelta(span)
    except OverflowError:
        return str(span)
    parts = [f"{date:%Y}", f"{date:%m}", f"{date:%d}"]
    named = (r"\D*".join(order) for order in (parts, parts[::-1]))
    expression = re.compile("|".join([*named, r"\{YYYY\}"]))
    return date.isoformat() if any(map(expression.search, archives)) else str(span)


@dataclass(frozen=True)
class Step:
    """One node of a run.

    Attributes:
        name: the node's id in the DAG.
        state: `done`, `cached`, `failed`, or `running` (at work, or killed).
        seconds: wall time, as the metadata store recorded it.
        outputs: folders of the artifacts by output name.
        properties: properties of the artifacts by output name.
        started: seconds since 1970-01-01 UTC.
        inputs: folders of the artifacts that it read, by input name.
        settings: its exec properties.
        output_ids: ids of the artifacts by output name.
        input_ids: ids of the artifacts that it read, by input name.
        origin_seconds: wall time of the execution that made the outputs, if they come from the
            cache; None if they do not, or if it is not known.
    """

    name: str
    state: str = DONE
    seconds: float = 0.0
    outputs: dict[str, list[str]] = field(default_factory=dict)
    properties: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    started: float = 0.0
    inputs: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    output_ids: dict[str, list[int]] = field(default_factory=dict)
    input_ids: dict[str, list[int]] = field(default_factory=dict)
    origin_seconds: float | None = None

    @property
    def work_seconds(self) -> float:
        """Wall time of making the outputs, in this run or in the run that they come from."""
        return self.seconds if self.origin_seconds is None else self.origin_seconds

    @property
    def cached(self) -> bool:
        """Whether the outputs come from an earlier run."""
        return self.state == CACHED

    @property
    def failed(self) -> bool:
        """Whether the step ended with an error."""
        return self.state == FAILED

    @property
    def title(self) -> str:
        """The title for users; the name itself if it has no title."""
        return STEP_TITLES.get(self.name, self.name)

    @property
    def ingested(self) -> IngestedImages | None:
        """The images of the step's Examples artifact; None for a step without one."""
        found = self.properties.get(_EXAMPLES)
        if not found:
            return None
        return IngestedImages(
            span=found[0].get("span"),
            count=found[0].get("images"),
            fingerprint=str(found[0].get("input_fingerprint", "")),
            archives=self._archives(),
        )

    def _archives(self) -> tuple[str, ...]:
        try:
            return tuple(map(str, json.loads(self.settings["input_config"])["paths"]))
        except (KeyError, ValueError, TypeError):
            return ()

    @property
    def pushed(self) -> list[str]:
        """Folders of the versions that this step pushed."""
        models = self.properties.get(PUSHED_MODEL, [])
        places = [str(model.get("pushed_destination", "")) for model in models]
        return [place for place in places if place]

    def output(self, name: str) -> str:
        """Returns the folder of the only artifact of an output."""
        (uri,) = self.outputs[name]
        return uri
