"""Compares the candidate with the last blessed model on the same images, for TFMA.

It counts gains, losses and changed labels, which is all that the gate's paired interval needs, so
nothing is stored per image.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_model_analysis as tfma

from components.model_gate import metric_names as m
from pipeline.quality_metrics.inputs import (
    MergingCombiner,
    cost_of_mistake,
    label_of,
    log_loss,
    outputs_of,
    probabilities_of,
)
from serving import names


class _Sums:
    def __init__(self) -> None:
        self.images = 0
        self.both = 0
        self.gained = 0
        self.lost = 0
        self.flips = 0
        self.log_loss = 0.0
        self.mistake = 0.0
        self.baseline_mistake = 0.0
        # Welford's running mean and sum of squared distances (Welford 1962; Chan et al. 1979).
        self.rise = 0.0
        self.squares = 0.0

    def add_rise(self, rise: float) -> None:
        distance = rise - self.rise
        self.rise += distance / self.images
        self.squares += distance * (rise - self.rise)

    def merge(self, other: "_Sums") -> None:
        images = self.images + other.images
        if images:
            distance = other.rise - self.rise
            self.rise += distance * other.images / images
            self.squares += other.squares + distance**2 * self.images * other.images / images
        self.images = images
        self.both += other.both
        self.gained += other.gained
        self.lost += other.lost
        self.flips += other.flips
        self.log_loss += other.log_loss
        self.mistake += other.mistake
        self.baseline_mistake += other.baseline_mistake


class PairedChange(tfma.metrics.Metric):
    """Measures how predictions differ from the baseline's; no result if there is no baseline."""

    def __init__(self, name: str = "paired_change") -> None:
        super().__init__(_computations, name=name)


def _computations(
    name: str = "paired_change",
    eval_config: Any = None,
    model_names: Sequence[str] = (),
    **_: Any,
) -> list[tfma.metrics.MetricComputation]:
    del name
    baselines = [spec.name for spec in eval_config.model_specs if spec.is_baseline]
    if not baselines:
        return []
    (baseline,) = baselines
    (candidate,) = (model for model in model_names if model != baseline)
    keys = {
        metric: tfma.metrics.MetricKey(metric, model_name=candidate, is_diff=True)
        for metric in (m.PAIRED_IMAGES, m.PAIRED_BOTH, m.PAIRED_GAINED, m.PAIRED_LOST,
                       m.PAIRED_FLIPS, m.PAIRED_LOG_LOSS, m.PAIRED_RISE, m.PAIRED_RISE_DEVIATION,
                       m.PAIRED_MISTAKE, m.PAIRED_BASELINE_MISTAKE)
    }  # fmt: skip

    def add(sums: _Sums, inputs: tfma.metrics.StandardMetricInputs) -> None:
        new, old = _Answer(inputs, candidate), _Answer(inputs, baseline)
        sums.images += 1
        sums.both += new.right and old.right
        sums.gained += new.right and not old.right
        sums.lost += old.right and not new.right
        sums.flips += new.differs(old)
        sums.log_loss += old.log_loss
        sums.mistake += new.mistake
        sums.baseline_mistake += old.mistake
        sums.add_rise(new.log_loss - old.log_loss)

    def extract(sums: _Sums) -> dict[tfma.metrics.MetricKey, float]:
        variance = sums.squares / (sums.images - 1) if sums.images > 1 else math.nan
        values = {
            m.PAIRED_IMAGES: sums.images,
            m.PAIRED_BOTH: sums.both,
            m.PAIRED_GAINED: sums.gained,
            m.PAIRED_LOST: sums.lost,
            m.PAIRED_FLIPS: sums.flips,
            m.PAIRED_LOG_LOSS: sums.log_loss / max(sums.images, 1),
            m.PAIRED_RISE: sums.rise,
            m.PAIRED_RISE_DEVIATION: math.sqrt(variance),
            m.PAIRED_MISTAKE: sums.mistake / max(sums.images, 1),
            m.PAIRED_BASELINE_MISTAKE: sums.baseline_mistake / max(sums.images, 1),
        }
        return {keys[metric]: float(value) for metric, value in values.items()}

    return [
        tfma.metrics.MetricComputation(
            keys=list(keys.values()),
            preprocessors=None,
            combiner=MergingCombiner(_Sums, add, extract),
        )
    ]


class _Answer:
    """One model's prediction for one image.

    Attributes:
        place: Index of the predicted class.
        name: Name of the predicted class; None if an older model does not output it.
        right: Whether the prediction is correct.
        log_loss: -log of the true class's probability, nats.
        mistake: Least log loss if the predicted class were wrong, nats.
    """

    def __init__(self, inputs: tfma.metrics.StandardMetricInputs, model_name: str) -> None:
        outputs = outputs_of(inputs, model_name)
        probabilities = probabilities_of(outputs)
        truth = label_of(inputs, model_name)
        self.place = int(probabilities.argmax())
        self.name = np.ravel(outputs[names.LABEL])[0] if names.LABEL in outputs else None
        self.right = self.place == truth
        self.log_loss = log_loss(probabilities, truth)
        self.mistake = cost_of_mistake(probabilities)

    def differs(self, other: "_Answer") -> bool:
        """Tells whether the labels differ, by name, because indices may differ between models."""
        if self.name is None or other.name is None:
            return self.place != other.place
        return bool(self.name != other.name)
