"""Makes images that belong to no class from good ones, to choose the outlier score.

Only `calibration.py` uses them. They are not used for measurement: `benchmarks/outliers.py`
measures the chosen score on other kinds of outliers.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

Maker = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _swapped_quadrants(images: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Permutes the four quadrants: the strokes are right, their arrangement is wrong."""
    del draw
    rows, columns = images.shape[1] // 2, images.shape[2] // 2
    return np.roll(images, (rows, columns), axis=(1, 2))


def _overlaid_pairs(images: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Overlays two images, keeping the value farther from their common mean."""
    partners = np.roll(images, int(draw.integers(1, max(2, len(images)))), axis=0)
    middle = images.mean()
    nearer = np.abs(images - middle) < np.abs(partners - middle)
    return np.where(nearer, partners, images)


def _scattered_pixels(images: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Shuffles the pixels of each image."""
    count, height, width, channels = images.shape
    flat = images.reshape(count, height * width, channels)
    order = draw.random((count, height * width)).argsort(axis=1)
    return np.take_along_axis(flat, order[:, :, np.newaxis], axis=1).reshape(images.shape)


def _stripes(images: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Draws waves of random direction, length and phase."""
    count, height, width, channels = images.shape
    angle, phase = draw.uniform(0, np.pi, (2, count, 1, 1, 1)) * [[[[[1.0]]]], [[[[2.0]]]]]
    length = draw.uniform(3.0, max(4.0, width / 2), (count, 1, 1, 1))
    rows = np.arange(height)[:, np.newaxis, np.newaxis]
    columns = np.arange(width)[np.newaxis, :, np.newaxis]
    along = rows * np.sin(angle) + columns * np.cos(angle)
    wave = 127.5 * (1.0 + np.sin(2.0 * np.pi * along / length + phase))
    return np.broadcast_to(wave, (count, height, width, channels)).astype(np.uint8)


def _half_replaced(images: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Replaces the lower half with that of another image, turned upside down."""
    del draw
    rows = images.shape[1] // 2
    changed = images.copy()
    changed[:, rows:] = np.roll(images, 1, axis=0)[:, ::-1][:, rows:]
    return changed


MAKERS: Final[dict[str, Maker]] = {
    "swapped_quadrants": _swapped_quadrants,
    "overlaid_pairs": _overlaid_pairs,
    "scattered_pixels": _scattered_pixels,
    "stripes": _stripes,
    "half_replaced": _half_replaced,
}


def synthetic_outliers(images: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
    """Makes outliers of every kind, one for each image.

    Args:
        images: uint8 [n, height, width, channels], images that belong to a class.
        seed: seed of the random choices.

    Returns:
        uint8 [n, height, width, channels] by kind.
    """
    draw = np.random.default_rng(seed)
    return {name: make(images, draw) for name, make in MAKERS.items()}
