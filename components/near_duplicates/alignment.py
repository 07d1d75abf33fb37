"""Confirms candidates: aligns two thumbnails and measures what remains of their difference.

`finding.py` calls it. A similar hash says that two images look alike at first sight, as two
handwritten ones do; after alignment only copies agree in every pixel.
"""

from typing import Final

import numpy as np

from components.near_duplicates.perceptual_hash import SIDE, window_start

# Chosen on images that benchmarks/near_duplicates.py does not report on; see the decision note.
LARGEST_RESIDUAL: Final = 24.0
"""Levels by which an aligned copy may differ at any pixel, after smoothing."""
_LEAST_CORRELATION: Final = 0.97
_LARGEST_RELATIVE: Final = 0.3
"""Largest residual relative to the largest deviation of the copy from its mean."""
_COARSE_STEPS: Final = 1
_STEPS: Final = 3
_LARGEST_COARSE: Final = 20.0
"""Levels by which a pair may differ at half the resolution to be looked at in full."""
_LARGEST_MOVE: Final = 0.05
"""Largest correction of shift and scale in one step."""
_BORDER: Final = 2
"""Pixels at the border that are not compared, because a crop's border is interpolated."""
_LARGEST_SHIFT: Final = 0.06
"""Share of the side."""
_SCALES: Final = (0.92, 1.08)
_GAINS: Final = (0.7, 1.4)
_BLURS: Final = (-0.6, 1.0)
_LEAST_SHARED: Final = 0.7
"""Share of a thumbnail in which both images lie, border excluded."""


def distances(first: np.ndarray, second: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Measures how far pairs of images are from being copies.

    Shift, scale, contrast, brightness and blur of the first are fitted to the second by least
    squares, linearised in each of a few steps (Lucas and Kanade 1981, "An iterative image
    registration technique"), first at half the resolution, where most pairs end (Bouguet 2001,
    "Pyramidal implementation of the Lucas Kanade feature tracker"). Blur is a multiple of the
    Laplacian, the first term of its series.

    Args:
        first: uint8 [n, SIDE, SIDE].
        second: uint8 [n, SIDE, SIDE].
        window: uint8 [n], the window of the first from which to start.

    Returns:
        float32 [n]: 1 - the correlation coefficient after the fit; inf unless they are near: no
        pixel differs by more than `LARGEST_RESIDUAL`, and the fit is that of a copy.
    """
    is_same = (first == second).all(axis=(1, 2))
    found = np.where(is_same, 0, np.inf).astype(np.float32)
    left = np.flatnonzero(~is_same)
    place = np.stack(window_start(window[left]), axis=1)
    coarse = _Fit(_halved(first[left]), _halved(second[left]), place, _COARSE_STEPS)
    alike = coarse.largest <= _LARGEST_COARSE
    left, place = left[alike], coarse.place[alike]
    # The sharper of two images can be blurred, but not the other way round.
    for source, target in ((first, second), (second, first)):
        fine = _Fit(source[left].astype(np.float32), target[left].astype(np.float32), place, _STEPS)
        near = fine.is_near()
        found[left[near]] = fine.distance[near]
        left, place = left[~near], fine.place[~near]
        place = np.concatenate([-place[:, :2], np.ones_like(place[:, 2:])], axis=1) / place[:, 2:]
    return found


def _halved(images: np.ndarray) -> np.ndarray:
    """Averages squares of two by two pixels and smooths: float32 [n, SIDE / 2, SIDE / 2]."""
    tall = images[:, ::2].astype(np.uint16) + images[:, 1::2]
    small = (tall[:, :, ::2] + tall[:, :, 1::2]).astype(np.float32)
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 64


class _Fit:
    """Fits images to others of the same size.

    Args:
        source: float32 [n, side, side].
        target: float32 [n, side, side].
        place: float32 [n, 3]: shift down and right in shares of the side, and scale.
        steps: Number of times that shift and scale are corrected.

    Attributes:
        place: As fitted.
        distance: float32 [n], 1 - the correlation coefficient.
        largest: float32 [n], the largest residual in levels.
    """

    def __init__(
        self, source: np.ndarray, target: np.ndarray, place: np.ndarray, steps: int
    ) -> None:
        side = source.shape[1]
        from_centre = np.arange(side, dtype=np.float32) - (side - 1) / 2
        for _ in range(steps):
            warped, inside = _warp(source, place)
            by_row, by_column = _gradient(warped)
            outward = from_centre[:, None] * by_row + from_centre * by_column
            terms = (np.ones_like(warped), warped, _laplacian(warped), by_row, by_column, outward)
            fitted = _least_squares(terms, target, inside)[0]
            gain = np.where(np.abs(fitted[:, 1]) > 0.2, fitted[:, 1], 1)[:, None]
            move = fitted[:, 3:] / gain / [side, side, 1]
            place = (place + np.clip(move, -_LARGEST_MOVE, _LARGEST_MOVE)).astype(np.float32)
            place[:, 2] = np.clip(place[:, 2], 0.9, 1.1)
        self.place = place
        warped, inside = _warp(source, place)
        border = side * _BORDER // SIDE
        inside[:, :border] = inside[:, -border:] = 0
        inside[:, :, :border] = inside[:, :, -border:] = 0
        levels = (np.ones_like(warped), warped, _laplacian(warped))
        self._fitted, residual = _least_squares(levels, target, inside)
        self._shared = inside.mean(axis=(1, 2))
        mean = (target * inside).mean(axis=(1, 2)) / np.maximum(self._shared, 1e-3)
        centred = (target - mean[:, None, None]) * inside
        power = np.maximum(np.square(centred).sum(axis=(1, 2)), 1)
        unexplained = np.square(residual).sum(axis=(1, 2)) / power
        self.distance = 1 - np.sqrt(np.clip(1 - unexplained, 0, 1))
        self.largest = np.abs(residual).max(axis=(1, 2))
        self._deviation = np.abs(centred).max(axis=(1, 2))

    def is_near(self) -> np.ndarray:
        """Returns whether the residuals and the fit are those of a copy: bool [n]."""
        return (
            (self.distance <= 1 - _LEAST_CORRELATION)
            & (self.largest <= LARGEST_RESIDUAL)
            & (self.largest <= _LARGEST_RELATIVE * self._deviation)
            & (np.abs(self.place[:, :2]).max(axis=1) <= _LARGEST_SHIFT)
            & (self._shared >= _LEAST_SHARED)
            & _between(self.place[:, 2], _SCALES)
            & _between(self._fitted[:, 1], _GAINS)
            & _between(self._fitted[:, 2], _BLURS)
        )


def _between(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    return (values >= ends[0]) & (values <= ends[1])


def _warp(images: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves and scales images by linear interpolation; also tells which pixels lie inside."""
    side = images.shape[1]
    from_centre = np.arange(side, dtype=np.float32) - (side - 1) / 2
    inside = np.ones_like(images)
    for axis in (1, 2):
        at = (side - 1) / 2 + side * place[:, axis - 1, None] + place[:, 2, None] * from_centre
        exists = (at >= -0.5) & (at <= side - 0.5)
        at = np.clip(at, 0, side - 1)
        below = np.minimum(at.astype(np.intp), side - 2)
        above = (at - below).astype(np.float32)
        below, above, exists = (np.expand_dims(each, 3 - axis) for each in (below, above, exists))
        images = (
            np.take_along_axis(images, below, axis) * (1 - above)
            + np.take_along_axis(images, below + 1, axis) * above
        )
        inside *= exists
    return images, inside


def _gradient(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    by_row = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return by_row, (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2


def _laplacian(images: np.ndarray) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    beside = padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    return padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + beside - 4 * images


def _least_squares(
    terms: tuple[np.ndarray, ...], target: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fits multiples of the terms to the target; returns them [n, terms] and the residuals."""
    size = target.shape[1] * target.shape[2]
    columns = np.stack([(term * inside).reshape(-1, size) for term in terms], axis=1)
    wanted = (target * inside).reshape(-1, size, 1)
    squares = (columns @ columns.transpose(0, 2, 1)).astype(np.float64)
    # Without it an image without gradients would have no solution.
    squares += 1e-2 * np.eye(len(terms))
    fitted = np.linalg.solve(squares, (columns @ wanted).astype(np.float64))
    residual = wanted - columns.transpose(0, 2, 1) @ fitted.astype(np.float32)
    return fitted[:, :, 0], residual.reshape(target.shape)
