"""Classifies images with any predictor and returns typed predictions.

There are two predictors: `client.py` calls a server, and `local_model.py` a SavedModel in this
process.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from serving import names
from trainer.errors import UserError

INVALID_ARGUMENT: Final = "INVALID_ARGUMENT"
"""Status code of invalid requests, such as a corrupt image."""
NOT_FOUND: Final = "NOT_FOUND"
"""Status code of a name or version that the server has no model of."""
FAILED_PRECONDITION: Final = "FAILED_PRECONDITION"
"""Status code of a model that can't answer, whatever the images."""

MAX_CHANNELS: Final = 4
"""Most channels of decoded pixels: colour and alpha."""
PIXELS_EXPECTED: Final = (
    "pixels has to be uint8 [n, height, width, channels], levels 0 to 255, with 1 to"
    f" {MAX_CHANNELS} channels, which come last; its shape is"
)
"""Error of pixels in another layout, before their shape; the served graph uses it too."""

_NEEDED: Final = (
    names.LABEL,
    names.PROBABILITY,
    names.TOP_K_LABELS,
    names.TOP_K_PROBABILITIES,
    names.OUTLIER_SCORE,
    names.VERDICT,
)
_FUNCTION_NODE: Final = re.compile(r"\{\{function_node [^}]*\}\}\s*")
_UNKNOWN_LABEL: Final = "Unrecognized servable version label"
_LONGEST_MESSAGE: Final = 300


class ServingError(UserError, ValueError):
    """Reports a failed request in a message of one line.

    Attributes:
        code: Name of the gRPC status code, such as `INVALID_ARGUMENT` or `UNAVAILABLE`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_unknown_model(self) -> bool:
        """Returns whether the server has no model of this name, version or label.

        For a label, TF Serving's code is that of an image which cannot be read.
        """
        return self.code == NOT_FOUND or _UNKNOWN_LABEL in str(self)


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
        ServingError: One of the images cannot be decoded, the predictor is unavailable, or its
            model is another one.
        TypeError: One image, or names of files, instead of a list of the contents of files.
    """
    if not images:
        return []
    if isinstance(images, bytes | str) or any(isinstance(image, str) for image in images):
        raise TypeError("images has to be a list of the contents of image files, each bytes")
    outputs = predictor.predict(names.SERVING_DEFAULT, {names.IMAGE_BYTES: _as_strings(images)})
    if missing := [name for name in _NEEDED if name not in outputs]:
        raise ServingError(
            f"the answer of `{names.SERVING_DEFAULT}` lacks {', '.join(missing)}: it is not a model"
            " of vaeline, or one of an earlier release",
            FAILED_PRECONDITION,
        )
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
            if error.code != INVALID_ARGUMENT or error.is_unknown_model:
                raise
            if end - begin == 1:
                results.append(error)
            else:
                middle = (begin + end) // 2
                todo.extend([(middle, end), (begin, middle)])
    return results


def require_pixels(inputs: Mapping[str, np.ndarray]) -> None:
    """Refuses decoded pixels that a model would misread, before they are sent anywhere.

    Args:
        inputs: Arrays by input name; only `pixels` is checked.

    Raises:
        ServingError: It is not uint8 `[n, height, width, 1 to 4 channels]`. Floats are never
            converted, because they are often scaled to [0, 1].
    """
    if names.PIXELS not in inputs:
        return
    array = inputs[names.PIXELS]
    is_image = array.ndim == 4 and min(array.shape[1:]) > 0 and array.shape[3] <= MAX_CHANNELS
    if array.dtype != np.uint8 or not is_image:
        raise ServingError(
            f"{PIXELS_EXPECTED} {list(array.shape)}, its type {array.dtype}", INVALID_ARGUMENT
        )


def as_array(value: Any) -> np.ndarray:
    """Returns an input of a signature as an array; `bytes` stay objects.

    NumPy's own strings would lose the zeros at their ends, with which a BMP file may end.

    Args:
        value: An array, or a list of numbers or of `bytes`.
    """
    array = np.asarray(value)
    return np.asarray(value, object) if array.dtype.kind == "S" else array


def one_line(message: str) -> str:
    """Shortens TensorFlow's message of an error to the one line that users need."""
    lines = [line.strip() for line in _FUNCTION_NODE.sub("", message).splitlines()]
    said = [line for line in lines if line and not line.startswith("[[")]
    if not said:
        return "no reason given"
    # In Python, TensorFlow names the origin of the ops first and the cause last.
    return said[-1 if said[0].startswith("Graph execution error") else 0][:_LONGEST_MESSAGE]


def _as_strings(images: Sequence[bytes]) -> np.ndarray:
    # An array of objects, because NumPy's own strings lose trailing zero bytes.
    array = np.empty(len(images), object)
    array[:] = images
    return array


def _texts(values: np.ndarray) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
