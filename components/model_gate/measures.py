"""Converts TFMA's protos to plain values that the rules use."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.model_gate import metric_names
from trainer.errors import UserError


class EvaluationError(UserError, ValueError):
    """Reports an evaluation without data to judge; the message says what is missing."""


@dataclass(frozen=True)
class SliceMeasures:
    """Holds the metrics of one slice or of the whole split.

    Attributes:
        values: Metrics of the candidate by name.
        paired: Metrics of candidate and baseline together; empty without a baseline.
    """

    values: Mapping[str, float]
    paired: Mapping[str, float]

    @property
    def images(self) -> int:
        """Returns the number of images."""
        return int(self.values.get(metric_names.EXAMPLE_COUNT, 0))


@dataclass(frozen=True)
class ClassMeasures:
    """Holds the counts of one class.

    Attributes:
        name: Name of the class.
        images: Images of the test split that belong to the class.
        predicted: Images that were assigned to the class.
        hits: Images that were assigned to the class and belong to it.
    """

    name: str
    images: int
    predicted: int
    hits: int

    @property
    def recall(self) -> float:
        """Returns the share of the class's images that were found; NaN without images."""
        return self.hits / self.images if self.images else math.nan

    @property
    def precision(self) -> float:
        """Returns the share of predicted images that belong to the class; NaN if there are none."""
        return self.hits / self.predicted if self.predicted else math.nan


@dataclass(frozen=True)
class Measures:
    """Holds all metrics of an evaluation.

    Attributes:
        overall: Metrics of the whole test split.
        slices: Metrics of slices by kind and value.
        classes: Counts of classes in the model's order.
        confusion: Images by true and predicted class number; absent pairs have none.
        gone_classes: Classes of the last blessed model that this one does not have.
        new_classes: Classes that the last blessed model does not have; empty without one.
    """

    overall: SliceMeasures
    slices: Mapping[str, Mapping[str, SliceMeasures]]
    classes: Sequence[ClassMeasures]
    confusion: Mapping[tuple[int, int], int] = field(default_factory=dict)
    gone_classes: Sequence[str] = ()
    new_classes: Sequence[str] = ()

    @property
    def balanced_accuracy(self) -> float:
        """Returns the mean recall of classes that have images (Brodersen et al. 2010)."""
        recalls = [each.recall for each in self.classes if each.images]
        return sum(recalls) / len(recalls) if recalls else math.nan


def read_measures(
    slices: Iterable[Any], classes: Sequence[str], baseline_classes: Sequence[str] = ()
) -> Measures:
    """Reads the metrics that TFMA wrote.

    Args:
        slices: TFMA's `MetricsForSlice` protos.
        classes: Class names in the model's order.
        baseline_classes: Class names of the last blessed model; empty without one.

    Returns:
        The metrics as plain values.

    Raises:
        EvaluationError: if the test split has no images.
    """
    overall: SliceMeasures | None = None
    confusion: dict[tuple[int, int], int] = {}
    by_kind: dict[str, dict[str, SliceMeasures]] = {}
    for proto in slices:
        values = [(item.key, item.value) for item in proto.metric_keys_and_values]
        measures = SliceMeasures(
            values={key.name: _number(value) for key, value in values if not key.is_diff},
            paired={key.name: _number(value) for key, value in values if key.is_diff},
        )
        keys = proto.slice_key.single_slice_keys
        if keys:
            (part,) = keys
            by_kind.setdefault(part.column, {})[_text(part)] = measures
        else:
            overall = measures
            confusion = _confusion(values)
    if overall is None or not overall.images:
        raise EvaluationError(
            "the test split has no images, so there is nothing to judge the model by; "
            "give input.splits.test a share, or images"
        )
    return Measures(
        overall=overall,
        slices={kind: dict(sorted(parts.items())) for kind, parts in sorted(by_kind.items())},
        classes=_classes(confusion, classes),
        confusion=confusion,
        gone_classes=sorted(set(baseline_classes) - set(classes)),
        new_classes=sorted(set(classes) - set(baseline_classes)) if baseline_classes else (),
    )


def _number(value: Any) -> float:
    return value.double_value.value if value.HasField("double_value") else math.nan


def _text(part: Any) -> str:
    value = getattr(part, part.WhichOneof("kind"))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _confusion(values: Iterable[tuple[Any, Any]]) -> dict[tuple[int, int], int]:
    for key, value in values:
        if key.name == metric_names.CONFUSION and not key.is_diff:
            (matrix,) = value.multi_class_confusion_matrix_at_thresholds.matrices
            return {
                (entry.actual_class_id, entry.predicted_class_id): round(
                    entry.num_weighted_examples
                )
                for entry in matrix.entries
            }
    return {}


def _classes(confusion: Mapping[tuple[int, int], int], names: Sequence[str]) -> list[ClassMeasures]:
    images, predicted = [0] * len(names), [0] * len(names)
    for (truth, given), count in confusion.items():
        # -1 is a class unknown to training; each of its images is a false positive of its label.
        if truth >= 0:
            images[truth] += count
        predicted[given] += count
    return [
        ClassMeasures(name, images[k], predicted[k], confusion.get((k, k), 0))
        for k, name in enumerate(names)
    ]
