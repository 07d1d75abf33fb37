"""Classifies images with any predictor and returns typed predictions.

There are two predictors: `client.py` calls a server, and `local_model.py` a SavedModel in this
process.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from serving import names
from trainer.errors import UserError

INVALID_ARGUMENT: Final = "INVALID_ARGUMENT"
"""Status code of invalid requests, such as a corrupt image."""

_FUNCTION_NODE: Final = re.compile(r"\{\{function_node [^}]*\}\}\s*")
_LONGEST_MESSAGE: Final = 300


class ServingError(UserError, ValueError):
    """Reports a failed request in a message of one line.

    Attributes:
        code: Name of the gRPC status code, such as `INVALID_ARGUMENT` or `UNAVAILABLE`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Predictor(Protocol):
    """Calls the signatures of a model."""

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Calls one signature; raises ServingError on failure."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The model's prediction for one image.

    Attributes:
        label: The most probable class.
        probability: Its calibrated probability.
        top_k: The most probable classes with their probabilities, best first.
        outlier_score: Score that is larger for images less like the training images.
        verdict: `accept`, `review` or `reject`, according to the score.
    """

    label: str
    probability: float
    top_k: tuple[tuple[str, float], ...]
    outlier_score: float
    verdict: str


def classify(predictor: Predictor, images: Sequence[bytes]) -> list[Prediction]:
    """Classifies all image files, or fails.

    Args:
        predictor: A client or a model.
        images: Contents of PNG, JPEG, GIF or BMP files.

    Returns:
        One prediction for each image, in order.

    Raises:
        ServingError: One of the images cannot be decoded, or the predictor is unavailable.
    """
    if not images:
        return []
    outputs = predictor.predict(names.SERVING_DEFAULT, {names.IMAGE_BYTES: _as_strings(images)})
    labels = _texts(outputs[names.LABEL])
    verdicts = _texts(outputs[names.VERDICT])
    top_labels = [_texts(row) for row in outputs[names.TOP_K_LABELS]]
    return [
        Prediction(
            label=labels[at],
            probability=float(outputs[names.PROBABILITY][at]),
            top_k=tuple(
                zip(
                    top_labels[at],
                    (float(value) for value in outputs[names.TOP_K_PROBABILITIES][at]),
                    strict=True,
                )
            ),
            outlier_score=float(outputs[names.OUTLIER_SCORE][at]),
            verdict=verdicts[at],
        )
        for at in range(len(images))
    ]


def classify_each(predictor: Predictor, images: Sequence[bytes]) -> list[Prediction | ServingError]:
    """Classifies image files and isolates those that fail.

    One image that cannot be decoded fails its whole batch inside the graph. Batches that fail are
    halved until the bad images are isolated.

    Args:
        predictor: A client or a model.
        images: Contents of image files.

    Returns:
        For each image, its prediction or its error, in order.

    Raises:
        ServingError: The predictor is unavailable, whatever the images.
    """
    results: list[Prediction | ServingError] = []
    todo = [(0, len(images))]
    while todo:
        begin, end = todo.pop()
        try:
            results.extend(classify(predictor, images[begin:end]))
        except ServingError as error:
            if error.code != INVALID_ARGUMENT:
                raise
            if end - begin == 1:
                results.append(error)
            else:
                middle = (begin + end) // 2
                todo.extend([(middle, end), (begin, middle)])
    return results


def one_line(message: str) -> str:
    """Shortens TensorFlow's message of an error to the one line that users need."""
    lines = _FUNCTION_NODE.sub("", message).strip().splitlines()
    return lines[0].strip()[:_LONGEST_MESSAGE] if lines else "no reason given"


def _as_strings(images: Sequence[bytes]) -> np.ndarray:
    # An array of objects, because NumPy's own strings lose trailing zero bytes.
    array = np.empty(len(images), object)
    array[:] = images
    return array


def _texts(values: np.ndarray) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
