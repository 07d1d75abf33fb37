"""What came of a run's model, as its artifacts tell it: verdicts, and what it started from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.model_gate import metric_names
from components.model_gate.verdict import VERDICT_JSON, Verdict, read_verdict
from pipeline.run_record import Step
from trainer.model_card import EXPORTED_CARD, parse_card

EXPORT: Final = "Format-Serving"
"""TFX's folder of the SavedModel in a Model artifact."""

_REPORTED = (
    metric_names.ACCURACY,
    "balanced_accuracy",
    metric_names.TOP_K,
    metric_names.LOG_LOSS,
    metric_names.BRIER,
    metric_names.CALIBRATION_ERROR,
    metric_names.ELBO,
    metric_names.BITS,
)


@dataclass(frozen=True)
class ServingVerdict:
    """What ServingCheck found.

    Attributes:
        blessed: the export answers as the model in memory did, or was not checked.
        summary: one line; empty where nothing was checked.
        refusals: a line where it was refused.
    """

    blessed: bool = True
    summary: str = ""
    refusals: tuple[str, ...] = ()


def read_serving_check(step: Step | None) -> ServingVerdict:
    """Reads what ServingCheck wrote.

    Args:
        step: Its step of a run; None where it is switched off.

    Returns:
        The verdict.
    """
    if step is None:
        return ServingVerdict()
    (properties,) = step.properties["blessing"]
    summary = str(properties.get("summary", ""))
    if properties.get("blessed") == 1:
        return ServingVerdict(summary=summary)
    reason = f"the export does not serve as it was trained: {summary.removeprefix('REFUSED: ')}"
    return ServingVerdict(False, "", (reason,))


@dataclass(frozen=True)
class Evaluation:
    """What the gate found.

    Attributes:
        verdict: the rows and the reasons.
        metrics: of the whole test split, by name; log losses and ELBO in nats.
        test_images: how many images these were measured on.
        folder: where `verdict.json` and `verdict.txt` are.
    """

    verdict: Verdict
    metrics: dict[str, float]
    test_images: int
    folder: str


def read_evaluation(step: Step) -> Evaluation:
    """Reads what the gate wrote.

    Args:
        step: ModelGate's step of a run.

    Returns:
        The verdict.
    """
    folder = step.output("blessing")
    verdict = read_verdict((Path(folder) / VERDICT_JSON).read_text(encoding="utf-8"))
    overall = verdict.measures["overall"]
    return Evaluation(
        verdict=verdict,
        metrics={name: overall[name] for name in _REPORTED if overall.get(name) is not None},
        test_images=int(overall[metric_names.EXAMPLE_COUNT]),
        folder=folder,
    )


def read_warm_start(step: Step) -> str:
    """Reads what a training began with.

    Args:
        step: The Trainer's step of a run.

    Returns:
        How many weights came from which model, in a line; empty where all started anew.
    """
    path = Path(step.output("model")) / EXPORT / EXPORTED_CARD
    base = parse_card(path.read_bytes()).base
    return base.line.removeprefix("warm start: ") if base else ""
