"""Measures the bounds on log p(x), bits per dimension and outlier scores for TFMA."""

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
        # Images whose importance-weighted bound was measured, mean and sum of squared deviations.
        self.measured, self.bound, self.squares = 0, 0.0, 0.0
        self.sampled_elbo = 0.0
        self._scores: list[float] = []
        self._sketch: Any = None

    def add_bounds(self, count: int, mean: float, squares: float) -> None:
        """Adds the moments of images (Chan et al. 1983: differences of large sums are inexact)."""
        if not count:
            return
        total, step = self.measured + count, mean - self.bound
        self.squares += squares + step * step * self.measured * count / total
        self.bound += step * count / total
        self.measured = total

    def bound_error(self) -> float:
        """Returns the standard error of the mean bound; NaN for fewer than two images."""
        if self.measured < 2:
            return math.nan
        return math.sqrt(self.squares / (self.measured - 1) / self.measured)

    def add_score(self, score: float) -> None:
        if math.isfinite(score):
            self._scores.append(score)
            if len(self._scores) == _BUFFERED:
                self._flush()

    def merge(self, other: "_Sums") -> None:
        self.images += other.images
        self.elbo += other.elbo
        self.sampled_elbo += other.sampled_elbo
        self.add_bounds(other.measured, other.bound, other.squares)
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
    """Mean bounds (nats), bits per dimension, and quantiles of the outlier score.

    Args:
        dimensions: Number of values of an image: height x width x channels.
        importance_samples: k of the importance-weighted bound.
        name: A name that TFMA requires; the metrics have their own names.
    """

    def __init__(
        self, dimensions: int, importance_samples: int = 0, name: str = "model_outputs"
    ) -> None:
        super().__init__(
            tfma.metrics.merge_per_key_computations(_computations),
            dimensions=dimensions,
            importance_samples=importance_samples,
            name=name,
        )


def _computations(
    dimensions: int,
    importance_samples: int = 0,
    name: str = "model_outputs",
    model_name: str = "",
    **_: Any,
) -> list[tfma.metrics.MetricComputation]:
    del name

    def key(metric: str) -> tfma.metrics.MetricKey:
        return tfma.metrics.MetricKey(metric, model_name=model_name)

    def add(sums: _Sums, inputs: tfma.metrics.StandardMetricInputs) -> None:
        outputs = outputs_of(inputs, model_name)
        sums.images += 1
        sums.elbo += _scalar(outputs, names.ELBO)
        sums.add_score(_scalar(outputs, names.OUTLIER_SCORE))
        bound = _scalar(outputs, names.IMPORTANCE_BOUND)
        if math.isfinite(bound):
            sums.add_bounds(1, bound, 0.0)
            sums.sampled_elbo += _scalar(outputs, names.IMPORTANCE_ELBO)

    def extract(sums: _Sums) -> dict[tfma.metrics.MetricKey, float]:
        elbo = sums.elbo / sums.images if sums.images else math.nan
        bound = sums.bound if sums.measured else math.nan
        sampled_elbo = sums.sampled_elbo / sums.measured if sums.measured else math.nan
        nats_per_bit = dimensions * math.log(2)
        percentiles = sums.quantiles()
        return {
            key(metric_names.ELBO): elbo,
            key(metric_names.BITS): -elbo / nats_per_bit,
            key(metric_names.IMPORTANCE_BOUND): bound,
            key(metric_names.IMPORTANCE_ERROR): sums.bound_error(),
            key(metric_names.IMPORTANCE_ELBO): sampled_elbo,
            key(metric_names.IMPORTANCE_BITS): -bound / nats_per_bit,
            key(metric_names.IMPORTANCE_SAMPLES): float(importance_samples),
            key(metric_names.IMPORTANCE_IMAGES): float(sums.measured),
            **{
                key(metric): float(percentiles[round(level * _PERCENTILES)])
                for level, metric in metric_names.OUTLIER_QUANTILES.items()
            },
        }

    every = (
        metric_names.ELBO,
        metric_names.BITS,
        metric_names.IMPORTANCE_BOUND,
        metric_names.IMPORTANCE_ERROR,
        metric_names.IMPORTANCE_ELBO,
        metric_names.IMPORTANCE_BITS,
        metric_names.IMPORTANCE_SAMPLES,
        metric_names.IMPORTANCE_IMAGES,
        *metric_names.OUTLIER_QUANTILES.values(),
    )
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
