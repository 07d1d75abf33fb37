"""The numeric contract between two computations of the same image: what is equal, and how nearly.

`docs/numerics.md` states the contract. ServingCheck, the bulk job, the benchmarks and the tests
compare floats through this module alone.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

FLOATS: Final = 1e-4
"""Largest difference between float outputs of one exported model for one image, whatever the batch,
the signature, the process or the processor: absolute, and relative for numbers above 1. Measured
differences are below 1e-6; the rest is room for processors that nobody here has seen."""

SAME_PIXELS: Final = 1e-5
"""Largest difference, relative to an output's largest value, between answers to the same pixels.
Lower than `FLOATS`, because another decoder or resize changes an answer by 1e-4 and more."""


def differences(found: ArrayLike, expected: ArrayLike) -> np.ndarray:
    """Returns |found - expected| / max(|expected|, 1), float64 of the arrays' shape.

    Where both are NaN the difference is 0, where one of them is it is infinite.

    Args:
        found: floats of any shape.
        expected: floats of the same shape.
    """
    ours, theirs = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    with np.errstate(invalid="ignore"):
        # NumPy gives a scalar, which takes no assignment, for arrays without dimensions.
        result = np.asarray(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1.0))
    result[(ours == theirs) | (np.isnan(ours) & np.isnan(theirs))] = 0.0
    result[np.isnan(result)] = np.inf
    return result


def same_answers(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    """Tells whether two answers are to the same pixels: texts and numbers equal, floats nearly.

    Args:
        found: arrays [n, ...] by output name.
        expected: arrays of the same names and shapes.
    """
    return all(_same(np.asarray(found[name]), np.asarray(expected[name])) for name in expected)


def _same(found: np.ndarray, expected: np.ndarray) -> bool:
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    scale = float(np.abs(expected).max(initial=1e-30, where=np.isfinite(expected)))
    return np.allclose(found, expected, rtol=0.0, atol=SAME_PIXELS * scale, equal_nan=True)
