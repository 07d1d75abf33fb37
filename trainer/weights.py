"""A model's weights as names, arrays and digests that hold from one process to the next.

Called by the loop, the warm start, the export and the model's card.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_DIGEST_LENGTH = 16
_COUNTER = re.compile(r"_\d+$")


def weight_names(weights: Sequence[Any]) -> list[str]:
    """Names weights by their place in the model: `encoder/conv_unit_1/conv2d/kernel`.

    Keras counts nameless layers over the whole process, so the same weight has another path in
    another process, or in the second model of one. Here layers are counted within their parent.

    Args:
        weights: Keras variables, in the model's order.

    Returns:
        A name for each; no two are equal.
    """
    seen: dict[tuple[str, str], list[str]] = {}
    names = []
    for weight in weights:
        *layers, last = weight.path.split("/")
        name = ""
        for layer in layers:
            stem = _COUNTER.sub("", layer)
            alike = seen.setdefault((name, stem), [])
            if layer not in alike:
                alike.append(layer)
            place = alike.index(layer)
            name += f"{stem}_{place}/" if place else f"{stem}/"
        names.append(name + last)
    return names


def digest_arrays(arrays: Iterable[np.ndarray]) -> str:
    """Digests arrays in their order: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_DIGEST_LENGTH]


def digest_weights(weights: Sequence[Any]) -> str:
    """Digests Keras variables in the model's order, whatever Keras calls them."""
    return digest_arrays(weight.numpy() for weight in weights)


def copy_weights(source: Any, target: Any) -> None:
    """Copies what training changes from one VaeClassifier to another of the same options."""
    for to, value in zip(target.learned_weights, source.learned_weights, strict=True):
        to.assign(value.value.numpy())
