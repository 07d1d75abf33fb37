"""Gives a model's weights names, arrays and digests that are stable across processes.

The loop, the warm start, the export and the model card use it.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_DIGEST_LENGTH = 16
_COUNTER = re.compile(r"_\d+$")


def weight_names(weights: Sequence[Any]) -> list[str]:
    """Names weights by their position in the model: `encoder/conv_unit_1/conv2d/kernel`.

    Keras numbers unnamed layers per process, so the path of a weight differs in another process or
    in a second model of the same process. Here layers are numbered within their parent.

    Args:
        weights: Keras variables, in the model's order.

    Returns:
        A unique name for each variable.
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
    """Computes the digest of arrays in order: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_DIGEST_LENGTH]


def digest_weights(weights: Sequence[Any]) -> str:
    """Computes the digest of Keras variables in the model's order, independent of their names."""
    return digest_arrays(weight.numpy() for weight in weights)


def copy_weights(source: Any, target: Any) -> None:
    """Copies the learned weights of one VaeClassifier to another with the same options."""
    for to, value in zip(target.learned_weights, source.learned_weights, strict=True):
        to.assign(value.value.numpy())
