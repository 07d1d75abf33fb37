"""Measures how good class probabilities are, for TFMA.

With Keras's definitions, but without its metrics, which TensorFlow would trace in every run.
"""

import math
from collections import Counter
from typing import Any, Final

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import multi_class_confusion_matrix_metrics as confusion

from components.model_gate import metric_names as m
from pipeline.quality_metrics.inputs import (
    MergingCombiner,
    label_of,
    log_loss,
    outputs_of,
    probabilities_of,
)
from trainer.quality.confidence_grid import ConfidenceGrid

_THRESHOLD: Final = -1.0
"""Of the confusion matrix: the most probable class is the prediction, whatever its probability."""


class _Sums:
    def __init__(self) -> None:
        self.grid = ConfidenceGrid()
        self.images = 0
        self.right = 0
        self.near = 0
        self.log_loss = 0.0
        self.brier = 0.0
        self.pairs: Counter[tuple[int, int]] = Counter()

    def merge(self, other: "_Sums") -> None:
        self.grid.merge(other.grid)
        self.images += other.images
        self.right += other.right
        self.near += other.near
        self.log_loss += other.log_loss
        self.brier += other.brier
        self.pairs.update(other.pairs)

    def matrices(self) -> confusion.Matrices:
        """Returns the images by true and predicted class as TFMA's own metric does."""
        entries = {
            confusion.MatrixEntryKey(*pair): float(images) for pair, images in self.pairs.items()
        }
        return confusion.Matrices({_THRESHOLD: entries})


class ClassificationQuality(tfma.metrics.Metric):
    """Accuracy, top-k accuracy, log loss, confusion, calibration error and Brier score.

    The calibration error is over 15 bins of equal mass; beside it stands what chance alone gives a
    perfectly calibrated model, in the mean and at most in 95 of 100 test splits. The Brier score is
    Brier's own (1950): the sum over classes of (p_k - y_k)^2, in [0, 2].

    Args:
        top_k: An image counts for the top-k accuracy if fewer classes than this are more probable
            than the true one.
        name: A name that TFMA requires; the metrics have their own names.
    """

    def __init__(self, top_k: int, name: str = "classification") -> None:
        super().__init__(
            tfma.metrics.merge_per_key_computations(_computations), top_k=top_k, name=name
        )


def _computations(
    top_k: int, name: str = "classification", model_name: str = "", **_: Any
) -> list[tfma.metrics.MetricComputation]:
    del name
    keys = {
        metric: tfma.metrics.MetricKey(metric, model_name=model_name)
        for metric in (
            m.ACCURACY,
            m.TOP_K,
            m.LOG_LOSS,
            m.CONFUSION,
            m.CALIBRATION_ERROR,
            m.CALIBRATION_CHANCE,
            m.CALIBRATION_CHANCE_HIGH,
            m.BRIER,
        )
    }

    def add(sums: _Sums, inputs: tfma.metrics.StandardMetricInputs) -> None:
        probabilities = probabilities_of(outputs_of(inputs, model_name))
        label = label_of(inputs, model_name)
        place = int(probabilities.argmax())
        # A class that the model does not know has probability 0, and is none of the best.
        truth = float(probabilities[label]) if label >= 0 else 0.0
        better = int((probabilities > truth).sum()) if label >= 0 else top_k
        sums.grid.add(float(probabilities[place]), place == label)
        sums.images += 1
        sums.right += place == label
        sums.pairs[label, place] += 1
        sums.near += better < top_k and math.isfinite(truth)
        sums.log_loss += log_loss(probabilities, label)
        sums.brier += float(probabilities @ probabilities) - 2 * truth + 1

    def extract(sums: _Sums) -> dict[tfma.metrics.MetricKey, Any]:
        totals = {
            m.ACCURACY: sums.right,
            m.TOP_K: sums.near,
            m.LOG_LOSS: sums.log_loss,
            m.BRIER: sums.brier,
        }
        images = max(sums.images, 1)
        chance = sums.grid.chance_error()
        return {
            keys[m.CONFUSION]: sums.matrices(),
            keys[m.CALIBRATION_ERROR]: sums.grid.calibration_error(),
            keys[m.CALIBRATION_CHANCE]: chance.mean,
            keys[m.CALIBRATION_CHANCE_HIGH]: chance.high,
            **{keys[metric]: float(total) / images for metric, total in totals.items()},
        }

    return [
        tfma.metrics.MetricComputation(
            keys=list(keys.values()),
            preprocessors=None,
            combiner=MergingCombiner(_Sums, add, extract),
        )
    ]
