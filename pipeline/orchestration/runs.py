"""What runs came to, in rows for people and values for programs; `vaeline runs` shows them.

Reads only the metadata store and the small JSON files that steps leave beside their artifacts.
"""

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.run_record import Run, Step

FINISHED, FAILED, RUNNING, STOPPED = "finished", "failed", "running", "stopped"

REASON_NOTE = "reason"
"""Why a run was started; `vaeline retrain` notes it."""
REFUSALS_NOTE = "refusals"
METRIC_NOTE = "metric:"

_BLESSING, _PUSHED, _EXAMPLES = "blessing", "pushed_model", "examples"
# A property that the gate's blessing has and that of the export's check has not.
_GATES_MARK = "current_model_id"
_VERDICT_FILE = "verdict.json"


@dataclass(frozen=True)
class Summary:
    """One run.

    Attributes:
        run: its name.
        started: local time of the start, ISO 8601 with its zone.
        seconds: wall time from the first step's start to the last step's end.
        state: `finished`, `failed`, `running` or `stopped` (killed, or the machine went down).
        reason: why it was started; empty for a run that a person started.
        span: latest span of its images; None without spans.
        images: how many images were ingested; None where that step did not end.
        metrics: of the test split, by name.
        blessed: the gate's answer; None where it did not come to that.
        refusals: a line for each bound that was missed.
        pushed: folder of the pushed version; empty when there is none.
        cached: how many steps came from the cache.
        steps: name, state, seconds, inputs, outputs.
    """

    run: str
    started: str
    seconds: float
    state: str
    reason: str
    span: int | None
    images: int | None
    metrics: dict[str, float]
    blessed: bool | None
    refusals: list[str]
    pushed: str
    cached: int
    steps: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Returns it in a form for JSON."""
        return asdict(self)

    @property
    def verdict(self) -> str:
        """The gate's answer in words."""
        if self.blessed is None:
            return "-"
        return "blessed" if self.blessed else "REFUSED"


def summarise(run: Run, *, is_latest: bool, is_held: bool) -> Summary:
    """Puts a run into one record.

    Args:
        run: What the store says.
        is_latest: There is no later one.
        is_held: Somebody holds the root folder now.

    Returns:
        The record.
    """
    steps = list(run.steps.values())
    verdict = _verdict(steps)
    pushed = only_property(steps, _PUSHED) or {}
    examples = only_property(steps, _EXAMPLES) or {}
    ends = [step.started + step.seconds for step in steps]
    metrics = {
        name.removeprefix(METRIC_NOTE): float(value)
        for name, value in run.notes.items()
        if name.startswith(METRIC_NOTE)
    }
    return Summary(
        run=run.name,
        started=local_time(run.started),
        seconds=round(max(ends) - run.started, 3) if ends else 0.0,
        state=state_of(run, is_running=is_latest and is_held),
        reason=str(run.notes.get(REASON_NOTE, "")),
        span=examples.get("span"),
        images=examples.get("images"),
        metrics=metrics or _numbers(verdict.get("metrics")),
        blessed=is_blessed(steps),
        refusals=_noted_refusals(run) or [*_lines(verdict.get("refusals")), *_not_served(steps)],
        pushed=str(pushed.get("pushed_destination", "")),
        cached=sum(step.cached for step in steps),
        steps=[
            {
                "name": step.name,
                "state": step.state,
                "seconds": round(step.seconds, 3),
                "inputs": step.inputs,
                "outputs": step.outputs,
            }
            for step in steps
        ],
    )


def state_of(run: Run, *, is_running: bool) -> str:
    """Tells how a run ended.

    TFX marks a step as running before it works and as done, cached or failed after it. A run that
    ended in good order has blessed or refused a model and gone through the step that pushes.
    """
    states = {step.state for step in run.steps.values()}
    if "failed" in states:
        return FAILED
    is_whole = bool(states) and "running" not in states
    if is_whole and any(_PUSHED in step.outputs for step in run.steps.values()):
        return FINISHED
    return RUNNING if is_running else STOPPED


def only_property(steps: list[Step], output: str) -> Mapping[str, Any] | None:
    """Returns the properties of the artifact that a step gave under a name; None if none did."""
    for step in reversed(steps):
        if step.properties.get(output):
            return step.properties[output][0]
    return None


def is_blessed(steps: list[Step]) -> bool | None:
    """Tells whether every check blessed the model; None where the gate did not come to an answer.

    The check of the export gives a blessing, too; only the gate's names the model it is about. The
    Evaluator, which measures and judges nothing, leaves its own without an answer.
    """
    blessings = [
        found
        for step in steps
        for found in step.properties.get(_BLESSING, [])
        if "blessed" in found
    ]
    if not any(_GATES_MARK in blessing for blessing in blessings):
        return None
    return all(blessing.get("blessed") == 1 for blessing in blessings)


def local_time(seconds: float) -> str:
    """Formats seconds since 1970-01-01 UTC as local time with its zone."""
    zone = datetime.datetime.fromtimestamp(seconds).astimezone()
    return zone.isoformat(timespec="seconds")


def _verdict(steps: list[Step]) -> dict[str, Any]:
    """Reads the gate's table beside the blessing; empty where there is none."""
    for step in reversed(steps):
        for folder in step.outputs.get(_BLESSING, []):
            try:
                text = (Path(folder) / _VERDICT_FILE).read_text(encoding="utf-8")
                document = json.loads(text)
            except (OSError, ValueError):
                continue
            if isinstance(document, dict):
                return document
    return {}


def _noted_refusals(run: Run) -> list[str]:
    return str(run.notes.get(REFUSALS_NOTE, "")).splitlines()


def _not_served(steps: list[Step]) -> list[str]:
    """What the check of the export says where it refused."""
    return [
        "the export does not serve as it was trained: "
        + str(found.get("summary", "")).removeprefix("REFUSED: ")
        for step in steps
        for found in step.properties.get(_BLESSING, [])
        if found.get("blessed") == 0 and _GATES_MARK not in found
    ]


def _lines(value: Any) -> list[str]:
    return [str(line) for line in value] if isinstance(value, list) else []


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    return {
        str(name): float(number)
        for name, number in value.items()
        if isinstance(number, int | float) and not isinstance(number, bool)
    }
