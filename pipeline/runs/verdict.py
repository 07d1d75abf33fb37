"""Defines the verdicts of the gate and of ServingCheck on a run's model."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.model_gate import metric_names
from components.model_gate.verdict import VERDICT_JSON, Verdict, read_verdict
from trainer.errors import UserError

_REPORTED = (
    metric_names.ACCURACY,
    "balanced_accuracy",
    metric_names.TOP_K,
    metric_names.LOG_LOSS,
    metric_names.BRIER,
    metric_names.CALIBRATION_ERROR,
    metric_names.ELBO,
    metric_names.IMPORTANCE_BOUND,
    metric_names.BITS,
)


class MissingArtifactError(UserError, LookupError):
    """Reports that a file or folder that a step should have written is missing."""


@dataclass(frozen=True)
class ServingVerdict:
    """The verdict of ServingCheck.

    Attributes:
        blessed: whether the export's outputs match those of the model in memory; also true if the
            export was not checked.
        summary: one line; empty if nothing was checked or the export was refused.
        refusals: one line if the export was refused, otherwise empty.
    """

    blessed: bool = True
    summary: str = ""
    refusals: tuple[str, ...] = ()

    @classmethod
    def from_properties(cls, properties: Mapping[str, Any]) -> "ServingVerdict":
        """Reads the properties of ServingCheck's blessing."""
        summary = str(properties.get("summary", ""))
        if properties.get("blessed") == 1:
            return cls(summary=summary)
        reason = summary.removeprefix("REFUSED: ")
        return cls(False, "", (f"the export does not serve as it was trained: {reason}",))


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of the gate.

    Attributes:
        verdict: the rows and the reasons of the verdict.
        metrics: of the whole test split, by name; log losses and ELBO in nats.
        test_images: number of images that the metrics were measured on.
        folder: folder of `verdict.json` and `verdict.txt`.
    """

    verdict: Verdict
    metrics: dict[str, float]
    test_images: int
    folder: str

    @classmethod
    def empty(cls) -> "Evaluation":
        """Returns the evaluation of a run that has none."""
        return cls(Verdict(checks=[], first_model=False, measures={}), {}, 0, "")

    @property
    def overall(self) -> Mapping[str, Any]:
        """All metrics of the whole test split, by name."""
        measures: Mapping[str, Any] = self.verdict.measures.get("overall", {})
        return measures


def read_evaluation(folders: Iterable[Path]) -> Evaluation:
    """Reads the gate's evaluation.

    Args:
        folders: Folders of blessings; the gate's is the one with a `verdict.json`.

    Returns:
        The evaluation in the first such folder.

    Raises:
        MissingArtifactError: No folder has a verdict, or the verdict is damaged.
    """
    folder = next((folder for folder in folders if os.path.isfile(folder / VERDICT_JSON)), None)
    if folder is None:
        raise MissingArtifactError(f"The gate left no {VERDICT_JSON}.")
    try:
        verdict = read_verdict((folder / VERDICT_JSON).read_text(encoding="utf-8"))
        overall = verdict.measures.get("overall", {})
        return Evaluation(
            verdict=verdict,
            metrics={name: overall[name] for name in _REPORTED if overall.get(name) is not None},
            test_images=int(overall.get(metric_names.EXAMPLE_COUNT) or 0),
            folder=str(folder),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingArtifactError(f"{VERDICT_JSON} cannot be read: {error}.") from error
