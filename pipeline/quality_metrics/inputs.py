"""What a metric reads of one image: the label and the named outputs of one model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

from serving import names

_Sums = TypeVar("_Sums", bound="Mergeable")


class Mergeable(Protocol):
    """An accumulator."""

    def merge(self, other: Any) -> None:
        """Adds what another one holds."""


class MergingCombiner(beam.CombineFn):
    """Fills one accumulator per slice, one image at a time, and merges them.

    Args:
        create: Makes an empty accumulator.
        add: Adds an image's inputs to it.
        extract: Turns it into metrics.
    """

    def __init__(
        self,
        create: Callable[[], _Sums],
        add: Callable[[_Sums, tfma.metrics.StandardMetricInputs], None],
        extract: Callable[[_Sums], dict[tfma.metrics.MetricKey, float]],
    ) -> None:
        self._create = create
        self._add = add
        self._extract = extract

    def create_accumulator(self) -> Any:
        """Makes an empty accumulator."""
        return self._create()

    def add_input(self, accumulator: Any, element: tfma.metrics.StandardMetricInputs) -> Any:
        """Adds one image."""
        self._add(accumulator, element)
        return accumulator

    def merge_accumulators(self, accumulators: Sequence[Any]) -> Any:
        """Adds all to the first."""
        rest: Iterator[Any] = iter(accumulators)
        first = next(rest)
        for accumulator in rest:
            first.merge(accumulator)
        return first

    def extract_output(self, accumulator: Any) -> dict[tfma.metrics.MetricKey, float]:
        """Turns the sums into metrics."""
        return self._extract(accumulator)


def label_of(inputs: tfma.metrics.StandardMetricInputs, model_name: str) -> int:
    """Returns the number of the true class as the model numbers it; -1 where it has no such."""
    labels = inputs.labels
    # Each model has a vocabulary of its own.
    value = labels[model_name] if isinstance(labels, Mapping) else labels
    return int(np.asarray(value).reshape(-1)[0])


def outputs_of(
    inputs: tfma.metrics.StandardMetricInputs, model_name: str
) -> Mapping[str, np.ndarray]:
    """Returns the model's outputs for one image, by name.

    TFMA leaves out the model's name where there is only one model, and the output's where there is
    only one output.
    """
    outputs = inputs.predictions
    if model_name:
        outputs = outputs[model_name]
    return outputs if isinstance(outputs, Mapping) else {names.PROBABILITIES: outputs}


def probabilities_of(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the calibrated probabilities, float64 [classes]."""
    return np.asarray(outputs[names.PROBABILITIES], np.float64).reshape(-1)
