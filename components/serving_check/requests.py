"""Builds a request and the expected answer for every signature from the golden set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from serving import names
from serving.golden import ANSWERS, GoldenSet
from trainer.data import features

_BY_BYTES = (
    names.SERVING_DEFAULT, names.ANNOTATE, names.EMBED, names.SCORE, names.RECONSTRUCT,
)  # fmt: skip
_BY_PIXELS = (
    names.SERVING_DEFAULT_PIXELS, names.ANNOTATE_PIXELS, names.EMBED_PIXELS, names.SCORE_PIXELS,
)  # fmt: skip
_BY_EXAMPLES = (names.CLASSIFY_EXAMPLES, names.TRANSFORM_LABELS)


class Input(NamedTuple):
    """Describes one named input of a signature.

    Attributes:
        dtype: TensorFlow's name of the data type.
        shape: The shape, with -1 for a dimension of any size; () for a scalar.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """Holds one call of a signature with its expected answer.

    Attributes:
        signature: Name of the signature.
        inputs: Arrays by input name.
        expected: float32 [n, ...] by output name; other outputs are not compared.
        rows: First dimension of every output.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    rows: int


def build_request(
    signature: str, inputs: Mapping[str, Input], golden: GoldenSet, size: int, *, label: str
) -> Request:
    """Builds a request of a given size.

    Args:
        signature: Name of the signature.
        inputs: The inputs of the signature by name.
        golden: Images and answers, which are repeated if there are too few.
        size: Number of images or rows in the request.
        label: Name of a class, for signatures that generate by class.

    Raises:
        ValueError: if this version does not know the signature.
    """
    rows = np.arange(size) % len(golden)
    files = np.empty(size, object)
    files[:] = [golden.files[row] for row in rows]
    expected = {name: golden.answers[name][rows] for name in ANSWERS}
    if signature in _BY_BYTES:
        return Request(signature, {names.IMAGE_BYTES: files}, expected, size)
    if signature in _BY_PIXELS:
        return Request(signature, {names.PIXELS: golden.levels[rows]}, expected, size)
    if signature in _BY_EXAMPLES:
        records = np.empty(size, object)
        records[:] = [_record(file) for file in files]
        return Request(signature, {names.EXAMPLES: records}, expected, size)
    if signature in (names.GENERATE, names.SAMPLE):
        made = {name: _made(name, given, size, label) for name, given in inputs.items()}
        return Request(signature, made, {}, size)
    raise ValueError(f"the signature {signature} is none that this version exports")


def _made(name: str, given: Input, size: int, label: str) -> np.ndarray:
    if name == names.COUNT:
        return np.array(size, np.int32)
    if name == names.SEED:
        return np.array(1, np.int64)
    sides = [size, *given.shape[1:]] if given.shape else []
    if given.dtype == "string":
        return np.full(sides, label.encode(), object)
    return np.zeros(sides, given.dtype)


def _record(file: bytes) -> bytes:
    made = tf.train.Example()
    made.features.feature[features.ENCODED].bytes_list.value.append(file)
    return made.SerializeToString()
