"""Defines the expected calibration error and Brier score of class probabilities for TFMA."""

from typing import Any

import tensorflow_model_analysis as tfma

from components.model_gate import metric_names
from pipeline.quality_metrics.inputs import (
    MergingCombiner,
    label_of,
    outputs_of,
    probabilities_of,
)
from trainer.quality.confidence_grid import ConfidenceGrid


class _Sums:
    def __init__(self) -> None:
        self.grid = ConfidenceGrid()
        self.images = 0
        self.brier = 0.0

    def merge(self, other: "_Sums") -> None:
        self.grid.merge(other.grid)
        self.images += other.images
        self.brier += other.brier


class CalibrationQuality(tfma.metrics.Metric):
    """Calibration error over 15 bins of equal mass, and the Brier score.

    The Brier score is Brier's own (1950): the sum over classes of (p_k - y_k)^2, in [0, 2].
    """

    def __init__(self, name: str = "calibration") -> None:
        super().__init__(tfma.metrics.merge_per_key_computations(_computations), name=name)


def _computations(
    name: str = "calibration", model_name: str = "", **_: Any
) -> list[tfma.metrics.MetricComputation]:
    del name
    error = tfma.metrics.MetricKey(metric_names.CALIBRATION_ERROR, model_name=model_name)
    brier = tfma.metrics.MetricKey(metric_names.BRIER, model_name=model_name)

    def add(sums: _Sums, inputs: tfma.metrics.StandardMetricInputs) -> None:
        probabilities = probabilities_of(outputs_of(inputs, model_name))
        label = label_of(inputs, model_name)
        place = int(probabilities.argmax())
        sums.grid.add(float(probabilities[place]), place == label)
        truth = float(probabilities[label]) if label >= 0 else 0.0
        sums.images += 1
        sums.brier += float(probabilities @ probabilities) - 2 * truth + 1

    def extract(sums: _Sums) -> dict[tfma.metrics.MetricKey, float]:
        return {error: sums.grid.calibration_error(), brier: sums.brier / max(sums.images, 1)}

    return [
        tfma.metrics.MetricComputation(
            keys=[error, brier],
            preprocessors=None,
            combiner=MergingCombiner(_Sums, add, extract),
        )
    ]
