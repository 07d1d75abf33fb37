"""Says whether unlabelled images made a model better than one trained on the labelled ones alone.

ModelGate calls it with the metrics of both models on the same test images; the run report shows it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from components.model_gate import metric_names as m
from components.model_gate.change_rules import rise_of
from components.model_gate.config import EvaluationConfig
from components.model_gate.intervals import Interval, paired_interval, rise_interval
from components.model_gate.verdict import Check, Result

GAIN: Final = "unlabelled_gain"
"""Key of the comparison in `verdict.json`."""


@dataclass(frozen=True)
class UnlabelledGain:
    """Compares a model with one that learned from the labelled images alone.

    Attributes:
        unlabelled: Number of unlabelled images.
        labelled: Number of labelled training images, the same for both models.
        images: Number of test images.
        accuracy: Accuracy with the unlabelled images.
        accuracy_without: Accuracy of the other model.
        interval: Interval of the difference of the accuracies (Tango 1998).
        log_loss: Log loss with the unlabelled images, nats.
        log_loss_without: Log loss of the other model, nats.
        log_loss_interval: Interval of the difference of the log losses (`rise_interval`).
        confidence: Two-sided confidence level of both intervals.
    """

    unlabelled: int
    labelled: int
    images: int
    accuracy: float
    accuracy_without: float
    interval: Interval
    log_loss: float
    log_loss_without: float
    log_loss_interval: Interval
    confidence: float

    @property
    def outcome(self) -> str:
        """Returns `helped`, `hurt` or `made no measurable difference`, by the accuracy."""
        if self.interval.low > 0:
            return "helped"
        return "hurt" if self.interval.high < 0 else "made no measurable difference"

    @property
    def line(self) -> str:
        """Returns one sentence for people."""
        low, high = (f"{100 * end:.1f}" for end in self.interval)
        gain = 100 * (self.accuracy - self.accuracy_without)
        return (
            f"the {self.unlabelled:,} unlabelled images {self.outcome}:"
            f" {100 * self.accuracy:.1f} % instead of {100 * self.accuracy_without:.1f} %,"
            f" difference {gain:.1f} points ({low} to {high}, {100 * self.confidence:g} %)"
        )

    def checks(self, bounds: EvaluationConfig) -> Iterator[Check]:
        """Yields the rows of the verdict; a model that is surely worse may be refused."""
        gain = self.accuracy - self.accuracy_without
        refuses = bounds.labelled_only == "refuse"
        hurt = self.interval.high < 0
        yield Check(
            "accuracy by unlabelled images",
            f"{gain:+.4f} ({self.interval.low:+.4f} to {self.interval.high:+.4f})",
            "high >= 0" if refuses else "",
            (Result.REFUSED if hurt else Result.PASSED) if refuses else Result.MEASURED,
            blocks=refuses and hurt,
            reason=f"{self.line}; train without them (trainer.semi_supervised.enabled: false)"
            if refuses and hurt
            else "",
        )
        low, high = self.log_loss_interval
        rise = self.log_loss - self.log_loss_without
        yield Check("log loss by unlabelled images", f"{rise:+.4f} ({low:+.4f} to {high:+.4f})")

    def as_dict(self) -> dict[str, Any]:
        """Returns all attributes, the outcome and the sentence as JSON-compatible values."""
        return {**asdict(self), "outcome": self.outcome, "line": self.line}


def unlabelled_gain(
    paired: Mapping[str, float], images: Mapping[str, int], confidence: float
) -> UnlabelledGain:
    """Computes the comparison.

    Args:
        paired: Metrics of both models on the same images; the baseline is the model trained on
            labelled images alone.
        images: Training images by split.
        confidence: Two-sided confidence level of the intervals.
    """
    count = paired[m.PAIRED_IMAGES]
    gained, lost, both = paired[m.PAIRED_GAINED], paired[m.PAIRED_LOST], paired[m.PAIRED_BOTH]
    without, rise = paired[m.PAIRED_LOG_LOSS], rise_of(paired)
    return UnlabelledGain(
        unlabelled=images.get("unlabelled", 0),
        labelled=images.get("train", 0),
        images=int(count),
        accuracy=(both + gained) / count,
        accuracy_without=(both + lost) / count,
        interval=paired_interval(gained, lost, count, confidence),
        log_loss=without + rise.mean,
        log_loss_without=without,
        log_loss_interval=rise_interval(rise, count, confidence),
        confidence=confidence,
    )
