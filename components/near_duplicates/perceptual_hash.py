"""Computes a thumbnail and a perceptual hash of each image, for batches of images.

Ingest and the bulk job call it for the model's pixels; `candidates.py` compares hashes, and
`alignment.py` thumbnails. All sums are of whole numbers that the floats hold exactly, so that a
hash is the same on every processor. It imports NumPy only.
"""

from functools import lru_cache
from typing import Final

import numpy as np

SIDE: Final = 32
"""Rows and columns of a thumbnail."""
WINDOWS: Final = 6
"""Hashes of an image: of the whole, and of five windows that a crop may have left."""
WORDS: Final = 4
"""64-bit words of a hash."""

_PIXELS_AT_A_TIME: Final = 1 << 20
_CROP: Final = 0.05
"""Share of a side that the windows leave out."""
_FREQUENCIES: Final = 8
_GREY: Final = np.array([299, 587, 114])
"""Weights of red, green and blue in thousandths (ITU-R BT.601)."""
# Windows as (row, column) indices into `_ranges`: whole, corners, centre.
_PLACES: Final = ((0, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 3))


def thumbnails(pixels: np.ndarray) -> np.ndarray:
    """Makes grey thumbnails, averaged over areas and smoothed by a binomial filter.

    The filter (1, 2, 1) / 4 takes away what a re-encoded JPEG adds between neighbouring pixels.

    Args:
        pixels: uint8 [n, height, width, channels], channels 1 or 3 (RGB).

    Returns:
        uint8 [n, SIDE, SIDE].
    """
    number, height, width, channels = pixels.shape
    scale = 16 * height * width * (1 if channels == 1 else int(_GREY.sum()))
    found = np.empty((number, SIDE, SIDE), np.uint8)
    step = max(1, _PIXELS_AT_A_TIME // (height * width))
    for begin in range(0, number, step):
        some = pixels[begin : begin + step]
        grey = some[..., 0] if channels == 1 else some @ _GREY
        small = _shrinking(height) @ grey.astype(np.float64) @ _shrinking(width).T
        found[begin : begin + step] = np.rint(small / scale)
    return found


@lru_cache(maxsize=16)
def _shrinking(length: int) -> np.ndarray:
    """Returns float64 [SIDE, length] of whole numbers: areas, then smoothing; rows sum to 4n."""
    ends = np.minimum.outer(np.arange(1, SIDE + 1) * length, np.arange(1, length + 1) * SIDE)
    starts = np.maximum.outer(np.arange(SIDE) * length, np.arange(length) * SIDE)
    areas = np.maximum(ends - starts, 0)
    padded = np.pad(areas, ((1, 1), (0, 0)), mode="edge")
    return (padded[:-2] + 2 * areas + padded[2:]).astype(np.float64)


def hashes(thumbs: np.ndarray) -> np.ndarray:
    """Hashes the low frequencies of thumbnails and of windows of them.

    The coefficients of a discrete cosine transform (Zauner 2010, "Implementation and benchmarking
    of perceptual image hash functions") are weighted by the root of their frequency, which evens
    out the spectrum of photographs, and each bit is the sign of a random sum of them (Charikar
    2002, "Similarity estimation techniques from rounding algorithms"): the share of unequal bits
    grows with the angle between two images. Brightness and contrast change no sign.

    Args:
        thumbs: uint8 [n, SIDE, SIDE].

    Returns:
        uint64 [n, WINDOWS, WORDS].
    """
    sampled, weights, signs = _transforms()
    # [n, ranges * frequencies, SIDE]: rows of every range at once. The divisions keep all sums
    # below 2^24, up to which float32 is exact.
    by_rows = np.rint(sampled.reshape(-1, SIDE) @ thumbs.astype(np.float32) / 64)
    by_rows = by_rows.reshape(-1, len(sampled), _FREQUENCIES, SIDE)
    found = np.empty((len(thumbs), WINDOWS, 8 * WORDS), np.uint8)
    for place, (rows, columns) in enumerate(_PLACES):
        spectrum = by_rows[:, rows] @ sampled[columns].T
        weighted = np.rint(spectrum.reshape(len(thumbs), _FREQUENCIES**2) / 1024) * weights
        found[:, place] = np.packbits(weighted @ signs > 0, axis=1)
    return found.view("<u8")


@lru_cache(maxsize=1)
def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns float32 arrays of whole numbers: cosines by range, weights and signs of the bits."""
    places = (np.arange(SIDE) + 0.5) / SIDE
    cosines = np.cos(np.pi * places * np.arange(_FREQUENCIES)[:, None])
    ranges = ((0.0, 1.0), (0.0, 1 - _CROP), (_CROP, 1.0), (_CROP / 2, 1 - _CROP / 2))
    sampled = [np.rint(63 * cosines @ _sampling(*ends)) for ends in ranges]
    frequency = np.hypot(*np.indices((_FREQUENCIES, _FREQUENCIES))).ravel()
    used = (frequency > 0) & (frequency < _FREQUENCIES)
    weights = np.where(used, np.rint(8 * np.sqrt(frequency)), 0)
    # The stream of `RandomState` is the same in every release of NumPy.
    bits = np.random.RandomState(0).randint(0, 2, (_FREQUENCIES**2, 64 * WORDS))
    return (
        np.stack(sampled).astype(np.float32),
        weights.astype(np.float32),
        (2 * bits - 1).astype(np.float32),
    )


def _sampling(start: float, stop: float) -> np.ndarray:
    """Returns [SIDE, SIDE]: enlarges the range from `start` to `stop` by linear interpolation."""
    at = (start + (stop - start) * (np.arange(SIDE) + 0.5) / SIDE) * SIDE - 0.5
    at = np.clip(at, 0, SIDE - 1)
    below = np.minimum(at.astype(int), SIDE - 2)
    matrix = np.zeros((SIDE, SIDE))
    matrix[np.arange(SIDE), below] = 1 - (at - below)
    matrix[np.arange(SIDE), below + 1] = at - below
    return matrix


def window_start(window: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns where windows lie in the whole: shifts of centres in shares of the side, scales."""
    rows, columns = np.array(_PLACES)[window].T
    shifts = np.array([0.0, -_CROP / 2, _CROP / 2, 0.0], np.float32)
    scale = np.where(window == 0, 1.0, 1 - _CROP).astype(np.float32)
    return shifts[rows], shifts[columns], scale


def is_blank(thumbs: np.ndarray) -> np.ndarray:
    """Tells which thumbnails show too little for a comparison: bool [n]."""
    flat = thumbs.reshape(len(thumbs), -1)
    return flat.max(axis=1, initial=0).astype(int) - flat.min(axis=1, initial=255) < _LEAST_CONTRAST


_LEAST_CONTRAST: Final = 16
"""Levels between the darkest and the brightest pixel of a thumbnail that is compared."""
