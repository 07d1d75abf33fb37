"""Accumulates counts over fixed bins for the drift report; sums of workers add exactly.

Bins come from the quantiles of the training data in the model's card; `drift.py` evaluates the
sums.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, Self, TypeVar

import numpy as np

from serving import names
from trainer.model_card import ModelCard

PIXEL_BINS: Final = 32
"""Bins of the histogram of pixel levels, 8 levels each."""

PIXEL_IMAGES: Final = 64
"""Images per batch whose pixels are counted, evenly spread over the batch."""
_POSTERIORS: Final = 512
"""Images per batch whose class probabilities are kept to estimate the class shares."""
_POSTERIORS_PER_UNIT: Final = 512
_MOST_SIZES: Final = 200

_SCALARS: Final = {
    "outlier_score": names.OUTLIER_SCORE,
    "confidence": names.PROBABILITY,
    "elbo": names.ELBO,
}

_Items = TypeVar("_Items", np.ndarray, list[int])


class DriftSums:
    """Accumulates integer counts over images, and a small sample of class probabilities.

    Args:
        card: The model; without summaries only sizes, formats and labels are counted.
    """

    def __init__(self, card: ModelCard) -> None:
        summaries = card.summaries
        self._shape = card.image_shape
        self.counts: dict[str, np.ndarray] = {}
        self.mix: dict[str, Counter[str]] = {"format": Counter(), "size": Counter()}
        self.posteriors: list[list[float]] = []
        self._edges: dict[str, np.ndarray] = {}
        self._latent = [inner_edges(row) for row in summaries.latent.quantiles]
        quantiles = {
            "brightness": summaries.pixels.brightness,
            "contrast": summaries.pixels.contrast,
            **{name: getattr(summaries, name) for name in _SCALARS},
        }
        self._edges.update({name: inner_edges(row) for name, row in quantiles.items() if row})
        self._classes = len(card.classes)

    def add_answers(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Adds the model's outputs, [n, ...] by name, as far as they are there."""
        if names.EMBEDDING in outputs:
            for dimension, edges in enumerate(self._latent):
                self._bin(f"latent/{dimension}", outputs[names.EMBEDDING][:, dimension], edges)
        for name, output in _SCALARS.items():
            if name in self._edges and output in outputs:
                self._bin(name, outputs[output], self._edges[name])
        if names.LABEL_INDEX in outputs:
            self._add("classes", np.bincount(outputs[names.LABEL_INDEX], minlength=self._classes))
        if names.PROBABILITIES in outputs:
            some = evenly(outputs[names.PROBABILITIES], _POSTERIORS)
            self.posteriors.extend(np.round(some, 4).astype(float).tolist())

    def add_pixels(self, pixels: np.ndarray) -> None:
        """Adds images at the model's input size, uint8 [n, height, width, channels]."""
        if not len(pixels) or pixels.shape[1:] != self._shape or "brightness" not in self._edges:
            return
        some = evenly(pixels, PIXEL_IMAGES)
        flat = some.reshape(len(some), -1)
        levels = np.bincount(flat.ravel() // (256 // PIXEL_BINS), minlength=PIXEL_BINS)
        self._add("pixels", levels)
        unit = flat.astype(np.float32) / 255.0
        self._bin("brightness", unit.mean(axis=1), self._edges["brightness"])
        self._bin("contrast", unit.std(axis=1), self._edges["contrast"])

    def add_files(self, formats: list[str], widths: np.ndarray, heights: np.ndarray) -> None:
        """Adds the original formats and sizes."""
        self.mix["format"].update(formats)
        sizes, counts = np.unique(np.stack([widths, heights]), axis=1, return_counts=True)
        for (width, height), count in zip(sizes.T.tolist(), counts.tolist(), strict=True):
            self.mix["size"][f"{width}x{height}"] += count

    def merge(self, other: Self) -> None:
        """Adds the sums of another instance."""
        for name, counts in other.counts.items():
            self._add(name, counts)
        for name, mix in other.mix.items():
            self.mix[name].update(mix)
        self.posteriors.extend(other.posteriors)

    def as_dict(self) -> dict[str, Any]:
        """Returns the sums as plain values; rare sizes are grouped."""
        step = -(-len(self.posteriors) // _POSTERIORS_PER_UNIT) or 1
        return {
            "counts": {name: counts.tolist() for name, counts in sorted(self.counts.items())},
            "mix": {name: _commonest(mix) for name, mix in self.mix.items()},
            "posteriors": self.posteriors[::step],
        }

    def add_dict(self, sums: Mapping[str, Any]) -> None:
        """Adds sums that `as_dict` returned."""
        for name, counts in sums.get("counts", {}).items():
            self._add(name, np.array(counts))
        for name, mix in sums.get("mix", {}).items():
            self.mix[name].update(mix)
        self.posteriors.extend(sums.get("posteriors", []))

    def _bin(self, name: str, values: np.ndarray, edges: np.ndarray) -> None:
        places = np.searchsorted(edges, values, side="left")
        self._add(name, np.bincount(places, minlength=len(edges) + 1))

    def _add(self, name: str, counts: np.ndarray) -> None:
        self.counts[name] = self.counts[name] + counts if name in self.counts else counts


def evenly(values: _Items, most: int) -> _Items:
    """Returns at most `most` of a sequence, evenly spread over it."""
    return values[:: -(-len(values) // most) or 1]


def inner_edges(quantiles: list[float]) -> np.ndarray:
    """Returns the edges between bins; equal quantiles, as of a constant, become one edge."""
    return np.unique(np.asarray(quantiles, np.float64).astype(np.float32))


def expected_shares(quantiles: list[float], levels: list[float]) -> np.ndarray:
    """Returns the share of the training data in each bin of `inner_edges`.

    Args:
        quantiles: Quantiles of the training data, ascending.
        levels: Probabilities of these quantiles, ascending, in (0, 1).
    """
    values = np.asarray(quantiles, np.float64).astype(np.float32)
    edges = np.unique(values)
    # A bin includes its upper edge, so it extends to the highest level with that value.
    upto = [max(level for level, value in zip(levels, values, strict=True) if value == edge)
            for edge in edges]  # fmt: skip
    return np.array([high - low for low, high in pairwise([0.0, *upto, 1.0])])


def _commonest(mix: Counter[str]) -> dict[str, int]:
    kept = dict(sorted(mix.items(), key=lambda item: (-item[1], item[0]))[:_MOST_SIZES])
    rest = mix.total() - sum(kept.values())
    return {**kept, "other": kept.get("other", 0) + rest} if rest else kept
