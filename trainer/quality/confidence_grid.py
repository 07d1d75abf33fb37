"""Computes the expected calibration error over bins of equal mass; the project's only definition.

The trainer's calibration, the run report and the benchmarks call `expected_calibration_error` on
all predictions at once. TFMA's metric fills one `ConfidenceGrid` per slice and merges them.
`components/review` counts the images of an archive in the same cells.
"""

import math
from typing import Final, NamedTuple

import numpy as np

BINS: Final = 15

_CELLS_PER_UNIT: Final = 256
"""Cells per unit of log-odds. Confidences crowd near 1, where equal steps of probability would not
separate them."""
_MOST_LOG_ODDS: Final = 18.0
"""Largest log-odds of a cell; float32 has no probability between this and 1."""
CELLS: Final = round(2 * _MOST_LOG_ODDS * _CELLS_PER_UNIT) + 1
_LEAST: Final = 1e-9
"""Smallest probability whose log-odds are computed; they are beyond those of any cell."""

_FEW: Final = 0.28
"""Variance of a bin's hits below which Poisson's distribution of the misses (or of the hits,
whichever are fewer) gives the mean deviation; the normal distribution's is too large there."""
_NORMAL_95: Final = 1.6449
"""95 % quantile of the standard normal distribution."""


class ChanceLevel(NamedTuple):
    """Calibration error that chance alone gives a perfectly calibrated model.

    Attributes:
        mean: its expectation, in [0, 1].
        high: what it exceeds on 5 of 100 samples of images with the same confidences.
    """

    mean: float
    high: float


class ConfidenceGrid:
    """Counts images by confidence, with sums, in cells of 1/256 of log-odds.

    At most 9,217 cells are filled, whatever the number of images. Within a cell, confidences
    differ by less than 0.1 %, and their sums are exact, so the cells matter only if a bin ends
    inside one.
    """

    def __init__(self) -> None:
        # Maps a cell to [images, sum of confidences, hits]; sparse, because most slices are small.
        self._cells: dict[int, list[float]] = {}

    def add(self, confidence: float, right: bool) -> None:
        """Adds one image by the probability of its predicted label and whether that is correct."""
        self._add(_cell(confidence), 1.0, float(confidence), float(right))

    def add_all(self, confidences: np.ndarray, right: np.ndarray) -> None:
        """Adds n images, given as two arrays [n]."""
        cells = confidence_cells(confidences)
        for cell, confidence, hit in zip(
            cells.tolist(), confidences.tolist(), right.tolist(), strict=True
        ):
            self._add(cell, 1.0, confidence, float(hit))

    def merge(self, other: "ConfidenceGrid") -> None:
        """Adds the counts and sums of another grid."""
        for cell, (images, confidence, hits) in other._cells.items():
            self._add(cell, images, confidence, hits)

    def _add(self, cell: int, images: float, confidence: float, hits: float) -> None:
        sums = self._cells.setdefault(cell, [0.0, 0.0, 0.0])
        sums[0] += images
        sums[1] += confidence
        sums[2] += hits

    def calibration_error(self, bins: int = BINS) -> float:
        """Computes the expected calibration error over bins of equal mass.

        It is the sum over bins of |hits - sum of confidences| / n, where each bin has n / bins
        images in order of confidence (Nguyen & O'Connor 2015; Nixon et al. 2019, "adaptive"). A
        cell on a border is divided between both bins, so the order of images of equal confidence
        does not matter.

        Args:
            bins: Number of bins.

        Returns:
            The error, in [0, 1]; NaN without images.
        """
        if not self._cells:
            return math.nan
        images, confidence, hits = self._sums()
        found = np.abs(np.diff(_at_borders(images, hits - confidence, bins))).sum()
        return float(found / images.sum())

    def chance_error(self, bins: int = BINS) -> ChanceLevel:
        """Computes the error that `calibration_error` shows if every confidence is exactly right.

        The hits of a bin then have the variance v = sum of c (1 - c). Their mean absolute
        deviation is sqrt(2 v / pi) where v is not small, otherwise 2 v exp(-v), that of a count
        (Poisson) of few misses; bins are independent. Of fewer images than bins each has its own.

        Args:
            bins: Number of bins.

        Returns:
            Expectation and 95 % quantile; NaN without images.
        """
        if not self._cells:
            return ChanceLevel(math.nan, math.nan)
        images, confidence, _ = self._sums()
        share = np.clip(confidence / images, 0.0, 1.0)
        total = float(images.sum())
        filled = max(1, min(bins, int(total)))
        variance = np.diff(_at_borders(images, confidence * (1.0 - share), filled))
        few = variance < _FEW
        deviation = np.where(
            few, 2.0 * variance * np.exp(-variance), np.sqrt(2.0 * variance / math.pi)
        )
        spread = math.sqrt(float(np.maximum(variance - deviation**2, 0.0).sum()))
        mean = float(deviation.sum())
        return ChanceLevel(mean / total, min(1.0, (mean + _NORMAL_95 * spread) / total))

    def _sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns images, sums of confidences and hits of the filled cells, by confidence."""
        images, confidence, hits = np.array([self._cells[cell] for cell in sorted(self._cells)]).T
        return images, confidence, hits


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, *, bins: int = BINS
) -> float:
    """Returns the calibration error that `ConfidenceGrid.calibration_error` defines.

    Args:
        probabilities: float [n, K].
        labels: int [n], 0 to K - 1.
        bins: number of bins.
    """
    return grid_of(probabilities, labels).calibration_error(bins)


def grid_of(probabilities: np.ndarray, labels: np.ndarray) -> ConfidenceGrid:
    """Returns a grid of all predictions.

    Args:
        probabilities: float [n, K].
        labels: int [n], 0 to K - 1.
    """
    grid = ConfidenceGrid()
    grid.add_all(probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels)
    return grid


def confidence_cells(confidences: np.ndarray) -> np.ndarray:
    """Returns the cell of each confidence, int64 [n], in 0 to `CELLS` - 1; NaN is in the lowest.

    Args:
        confidences: float [n], probability of the predicted label.
    """
    values = np.nan_to_num(confidences.astype(np.float64))
    odds = np.maximum(values / np.maximum(1.0 - values, _LEAST), _LEAST)
    log_odds = np.clip(np.log(odds), -_MOST_LOG_ODDS, _MOST_LOG_ODDS)
    return np.floor((log_odds + _MOST_LOG_ODDS) * _CELLS_PER_UNIT).astype(np.int64)


def least_confidence(cell: int) -> float:
    """Returns the lowest confidence of a cell."""
    log_odds = cell / _CELLS_PER_UNIT - _MOST_LOG_ODDS
    return 1.0 / (1.0 + math.exp(-log_odds))


def _cell(confidence: float) -> int:
    """Does as `confidence_cells` for one image, without the cost of arrays."""
    odds = max(confidence / max(1.0 - confidence, _LEAST), _LEAST)
    log_odds = min(max(math.log(odds), -_MOST_LOG_ODDS), _MOST_LOG_ODDS)
    return math.floor((log_odds + _MOST_LOG_ODDS) * _CELLS_PER_UNIT)


def _at_borders(images: np.ndarray, sums: np.ndarray, bins: int) -> np.ndarray:
    """Returns the cumulative sums at the borders of bins of equal mass, float64 [bins + 1].

    Linear interpolation divides a cell between two bins.
    """
    ends = np.concatenate([[0.0], np.cumsum(images)])
    borders = np.linspace(0.0, ends[-1], bins + 1)
    return np.interp(borders, ends, np.concatenate([[0.0], np.cumsum(sums)]))
