"""Extracts the inputs of a metric for one image: the label and the outputs of one model."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

from serving import names

_CLIPPED = 1e-7
"""Distance from 0 and 1 to which Keras's cross-entropy clips probabilities."""

_Sums = TypeVar("_Sums", bound="Mergeable")


class Mergeable(Protocol):
    """An accumulator that can be merged with another."""

    def merge(self, other: Any) -> None:
        """Adds the contents of another accumulator."""


class MergingCombiner(beam.CombineFn):
    """Fills one accumulator per slice image by image, and merges accumulators.

    Args:
        create: Creates an empty accumulator.
        add: Adds the inputs of an image to an accumulator.
        extract: Converts an accumulator to metrics.
    """

    def __init__(
        self,
        create: Callable[[], _Sums],
        add: Callable[[_Sums, tfma.metrics.StandardMetricInputs], None],
        extract: Callable[[_Sums], dict[tfma.metrics.MetricKey, Any]],
    ) -> None:
        self._create = create
        self._add = add
        self._extract = extract

    def create_accumulator(self) -> Any:
        """Creates an empty accumulator."""
        return self._create()

    def add_input(self, accumulator: Any, element: tfma.metrics.StandardMetricInputs) -> Any:
        """Adds one image."""
        self._add(accumulator, element)
        return accumulator

    def merge_accumulators(self, accumulators: Sequence[Any]) -> Any:
        """Merges all accumulators into the first."""
        rest: Iterator[Any] = iter(accumulators)
        first = next(rest)
        for accumulator in rest:
            first.merge(accumulator)
        return first

    def extract_output(self, accumulator: Any) -> dict[tfma.metrics.MetricKey, Any]:
        """Converts the sums to metrics."""
        return self._extract(accumulator)


def label_of(inputs: tfma.metrics.StandardMetricInputs, model_name: str) -> int:
    """Returns the model's index of the true class; -1 if the model does not know the class."""
    labels = inputs.labels
    # Each model has its own vocabulary.
    value = labels[model_name] if isinstance(labels, Mapping) else labels
    return int(np.asarray(value).reshape(-1)[0])


def outputs_of(
    inputs: tfma.metrics.StandardMetricInputs, model_name: str
) -> Mapping[str, np.ndarray]:
    """Returns the model's outputs for one image, by name.

    TFMA omits the model's name if there is only one model, and the output's name if there is only
    one output.
    """
    outputs = inputs.predictions
    if model_name:
        outputs = outputs[model_name]
    return outputs if isinstance(outputs, Mapping) else {names.PROBABILITIES: outputs}


def probabilities_of(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the calibrated probabilities, float64 [classes]."""
    return np.asarray(outputs[names.PROBABILITIES], np.float64).reshape(-1)


def log_loss(probabilities: np.ndarray, label: int) -> float:
    """Returns the cross-entropy of one image in nats, as Keras computes it from probabilities.

    Args:
        probabilities: float64 [classes].
        label: Index of the true class; -1 for one that the model does not know.
    """
    clipped = np.minimum(np.maximum(probabilities, _CLIPPED), 1 - _CLIPPED)
    truth = clipped[label] if label >= 0 else _CLIPPED
    return math.log(clipped.sum()) - math.log(truth)


def cost_of_mistake(probabilities: np.ndarray) -> float:
    """Returns the least `log_loss` of an image, in nats, if the predicted label is wrong.

    Args:
        probabilities: float64 [classes].
    """
    return -math.log(max(1.0 - float(probabilities.max()), _CLIPPED))
