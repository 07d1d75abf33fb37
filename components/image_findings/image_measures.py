"""Measures brightness, contrast, sharpness, colour and size of many images at a time.

Ingest and the bulk job call it for the model's pixels, which they have decoded anyway. All sums are
of whole numbers that the floats hold exactly, so that measures are equal on every machine.
"""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from components.image_checks import ImageHeader

MEASURES: Final = ("brightest", "darkest", "sharpness", "colour", "width", "height")
"""Columns of the measures of an image, by number; `derived` has those that follow from them."""

_PIXELS_AT_A_TIME: Final = 1 << 19
_TAIL: Final = 0.01
"""Share of the pixels that may be brighter than `brightest`, or darker than `darkest`."""
_ENOUGH_PIXELS: Final = 4096
"""Pixels of an image, on a grid, from which the two are taken."""
_LEVELS: Final = 256


def measure_images(pixels: np.ndarray, headers: Sequence[ImageHeader]) -> np.ndarray:
    """Measures images.

    Args:
        pixels: uint8 [n, height, width, channels], channels 1 or 3 (RGB), of the model's size.
        headers: The headers of the original files.

    Returns:
        float32 [n, len(MEASURES)]: grey levels that 1 % of the pixels exceed or fall below;
        sharpness, see `_sharpness`; mean difference of the largest and the smallest colour channel,
        in levels, NaN for grey pixels; width and height of the original, upright, in pixels.
    """
    found = np.empty((len(pixels), len(MEASURES)), np.float32)
    step = max(1, _PIXELS_AT_A_TIME // max(1, pixels[:1].size))
    for begin in range(0, len(pixels), step):
        some = np.ascontiguousarray(pixels[begin : begin + step])
        grey, colour = _grey(some)
        columns = (*_extremes(grey), _sharpness(grey), colour)
        found[begin : begin + step, : len(columns)] = np.stack(columns, axis=1)
    sizes = [header.upright_size[::-1] for header in headers]
    found[:, -2:] = np.array(sizes, np.float32).reshape(-1, 2)
    return found


def derived(measures: np.ndarray) -> dict[str, np.ndarray]:
    """Returns all measures by name, float32 [n] each.

    `contrast` is the difference of brightest and darkest level, `side` the square root of the
    number of pixels, and `elongation` the longer side over the shorter one.
    """
    named = dict(zip(MEASURES, measures.T, strict=True))
    width, height = named["width"], named["height"]
    return {
        **named,
        "contrast": named["brightest"] - named["darkest"],
        "side": np.sqrt(width * height),
        "elongation": np.maximum(width, height) / np.minimum(width, height),
    }


def _grey(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 [n, height, width], and the mean colour [n], for which one call does."""
    number, height, width, channels = pixels.shape
    if channels == 1:
        return pixels[..., 0], np.full(number, np.nan)
    # OpenCV takes the images for one that is as tall as all of them.
    tall = pixels.reshape(number * height, width, channels)
    red, green, blue = cv2.split(tall)
    spread = cv2.subtract(
        cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    ).reshape(number, -1)
    colour = spread.sum(axis=1, dtype=np.int64) / spread.shape[1]
    return cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY).reshape(number, height, width), colour


def _extremes(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the brightest and the darkest level, without the tails of the histogram."""
    number, height, width = grey.shape
    step = max(1, int((height * width / _ENOUGH_PIXELS) ** 0.5))
    flat = grey[:, ::step, ::step].reshape(number, -1)
    places = flat + np.arange(0, number * _LEVELS, _LEVELS)[:, None]
    counts = np.bincount(places.ravel(), minlength=number * _LEVELS).reshape(number, _LEVELS)
    up_to = counts.cumsum(axis=1)
    tail = _TAIL * flat.shape[1]
    return (up_to < flat.shape[1] - tail).sum(axis=1), (up_to <= tail).sum(axis=1)


def _sharpness(grey: np.ndarray) -> np.ndarray:
    """Returns the mean squared Laplacian over the mean squared gradient, [n].

    The quotient hardly depends on what an image shows and on its contrast, and falls with the
    square of the width of a blur: of a Gaussian edge of standard deviation s it is in the order of
    1 / s^2. A half is added to the first and one to the second, so that an even area has a value.
    """
    number, height, width = grey.shape
    if min(height, width) < 3:
        return np.full(number, np.nan)
    levels = grey.astype(np.int16)
    inner = levels[:, 1:-1, 1:-1]
    up, down = levels[:, :-2, 1:-1], levels[:, 2:, 1:-1]
    left, right = levels[:, 1:-1, :-2], levels[:, 1:-1, 2:]
    curved = _squares(4 * inner - up - down - left - right)
    sloped = _squares(right - left) + _squares(down - up)
    pixels = (height - 2) * (width - 2)
    return (curved + 0.5 * pixels) / (sloped + pixels)


def _squares(values: np.ndarray) -> np.ndarray:
    """Sums the squares of each image's whole numbers, exactly."""
    return np.einsum("nij,nij->n", values, values, dtype=np.float64, casting="unsafe")
