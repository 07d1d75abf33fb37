"""Measures ELBO, bits per dimension and outlier scores for TFMA."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow_model_analysis as tfma
from tfx_bsl import sketches

from components.model_gate import metric_names
from pipeline.quality_metrics.inputs import MergingCombiner, outputs_of
from serving import names

_RANK_ERROR = 0.001
"""Rank error of the quantiles, as a share of the images; keeps the sketch below about 100 kB."""
_MOST_VALUES = 1 << 32
_BUFFERED = 256
_PERCENTILES = 100


class _Sums:
    def __init__(self) -> None:
        self.images = 0
        self.elbo = 0.0
        self._scores: list[float] = []
        self._sketch: Any = None

    def add_score(self, score: float) -> None:
        if math.isfinite(score):
            self._scores.append(score)
            if len(self._scores) == _BUFFERED:
                self._flush()

    def merge(self, other: "_Sums") -> None:
        self.images += other.images
        self.elbo += other.elbo
        if other._sketch is not None:
            self._flush()
            self._sketch.Merge(other._sketch)
        for score in other._scores:
            self.add_score(score)

    def _flush(self) -> None:
        if self._sketch is None:
            self._sketch = sketches.QuantilesSketch(_RANK_ERROR, _MOST_VALUES, 1)
        if self._scores:
            self._sketch.AddValues(pa.array(self._scores, pa.float64()))
            self._scores = []

    def quantiles(self) -> np.ndarray:
        """Returns minimum, all percentiles and maximum: float64 [101]; NaN without scores."""
        if self._sketch is None:
            # There are few enough scores for exact quantiles.
            if not self._scores:
                return np.full(_PERCENTILES + 1, math.nan)
            return np.quantile(self._scores, np.linspace(0, 1, _PERCENTILES + 1))
        self._flush()
        return self._sketch.GetQuantiles(_PERCENTILES).flatten().to_numpy(zero_copy_only=False)


class ModelOutputs(tfma.metrics.Metric):
    """Mean ELBO (nats), bits per dimension, and quantiles of the outlier score.

    Args:
        dimensions: Number of values of an image: height x width x channels.
        name: A name that TFMA requires; the metrics have their own names.
    """

    def __init__(self, dimensions: int, name: str = "model_outputs") -> None:
        super().__init__(
            tfma.metrics.merge_per_key_computations(_computations),
            dimensions=dimensions,
            name=name,
        )


def _computations(
    dimensions: int, name: str = "model_outputs", model_name: str = "", **_: Any
) -> list[tfma.metrics.MetricComputation]:
    del name

    def key(metric: str) -> tfma.metrics.MetricKey:
        return tfma.metrics.MetricKey(metric, model_name=model_name)

    def add(sums: _Sums, inputs: tfma.metrics.StandardMetricInputs) -> None:
        outputs = outputs_of(inputs, model_name)
        sums.images += 1
        sums.elbo += _scalar(outputs, names.ELBO)
        sums.add_score(_scalar(outputs, names.OUTLIER_SCORE))

    def extract(sums: _Sums) -> dict[tfma.metrics.MetricKey, float]:
        elbo = sums.elbo / sums.images if sums.images else math.nan
        percentiles = sums.quantiles()
        return {
            key(metric_names.ELBO): elbo,
            key(metric_names.BITS): -elbo / (dimensions * math.log(2)),
            **{
                key(metric): float(percentiles[round(level * _PERCENTILES)])
                for level, metric in metric_names.OUTLIER_QUANTILES.items()
            },
        }

    every = (metric_names.ELBO, metric_names.BITS, *metric_names.OUTLIER_QUANTILES.values())
    return [
        tfma.metrics.MetricComputation(
            keys=[key(metric) for metric in every],
            preprocessors=None,
            combiner=MergingCombiner(_Sums, add, extract),
        )
    ]


def _scalar(outputs: Any, name: str) -> float:
    # A model of an earlier version may lack this output.
    return float(np.asarray(outputs[name]).reshape(-1)[0]) if name in outputs else math.nan
