"""Learns from training images which measures are ordinary, and names what is not.

Ingest learns bounds and applies them; the bulk job applies those that the model carries.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from components.image_findings.image_measures import derived
from components.image_sources.config import FINDINGS, Finding, FindingsConfig
from trainer.model_card import FindingBounds

FEWEST_IMAGES: Final = 50
"""Smallest number of training images from which bounds are learned."""

_OUTER: Final = 0.05
"""Level of the quantile that the spread is taken from. Fewer bad training images move no bound."""


class _Rule(NamedTuple):
    """Says how the bound of a finding is learned.

    Attributes:
        finding: The finding.
        measure: Name of a measure.
        above: Whether values above the bound are found, and not those below.
        stretch: How many times as far from the median as the outer quantile the bound is, on a
            logarithmic scale.
        nearest: Largest bound as a share of the median.
        most: Largest bound.
    """

    finding: Finding
    measure: str
    above: bool = False
    stretch: float = 2.0
    nearest: float = 0.6
    most: float = np.inf


_RULES: Final = (
    _Rule("dark", "brightest", stretch=2.5),
    _Rule("bright", "darkest", above=True, stretch=2.5),
    _Rule("blurred", "sharpness"),
    _Rule("low_contrast", "contrast"),
    # What is blank or grey by itself, unless one in twenty training images is, too.
    _Rule("blank", "contrast", stretch=1.0, nearest=1.0, most=8.0),
    _Rule("odd_aspect_ratio", "elongation", above=True, nearest=2 / 3),
    _Rule("odd_size", "side", nearest=0.5),
    _Rule("odd_size", "side", above=True, nearest=0.5),
    _Rule("grey", "colour", stretch=1.0, nearest=1.0, most=1.5),
)

_MEANINGS: Final = {
    "brightest": "brightest level",
    "darkest": "darkest level",
    "sharpness": "sharpness",
    "contrast": "contrast in levels",
    "elongation": "longer side over shorter one",
    "side": "root of width times height",
    "colour": "difference of colour channels in levels",
}

_MEANS_BLANK: Final = ("dark", "bright", "blurred", "low_contrast", "grey")
"""What a blank image is as well."""


def learn_bounds(measures: np.ndarray, tolerance: float) -> dict[str, FindingBounds]:
    """Learns the bounds of all findings.

    Args:
        measures: float32 [n, ...] of training images, see `image_measures.MEASURES`.
        tolerance: Factor on the distance of a bound from the median.

    Returns:
        Bounds by finding; empty if there are too few images. A finding that cannot be told apart
        from ordinary images is omitted.
    """
    if len(measures) < FEWEST_IMAGES:
        return {}
    named = derived(measures)
    found: dict[str, dict[str, float]] = {}
    for rule in _RULES:
        values = named[rule.measure].astype(np.float64)
        if not np.isfinite(values).all():
            continue
        outer, median = np.quantile(_turned(values, rule), [_OUTER, 0.5], method="lower")
        if outer <= 0:
            continue
        fence = median * (outer / median) ** (rule.stretch * tolerance)
        bound = _turned(min(fence, rule.nearest * median, rule.most), rule)
        side = "above" if rule.above else "below"
        found.setdefault(rule.finding, {})[side] = float(np.float32(bound))
    return {name: FindingBounds(**sides) for name, sides in found.items()}


def _turned(values: np.ndarray | float, rule: _Rule) -> np.ndarray | float:
    """Turns large values into small ones and back: levels as seen from white, other measures."""
    if not rule.above:
        return values
    return 255.0 - values if rule.measure == "darkest" else 1.0 / np.maximum(values, 1e-9)


def bounds_in_use(
    learned: Mapping[str, FindingBounds], config: FindingsConfig
) -> dict[str, FindingBounds]:
    """Returns the learned bounds, replaced by those of the configuration; empty if it has none."""
    if not config.enabled:
        return {}
    found = dict(learned)
    for side, given in (("below", config.below), ("above", config.above)):
        for name, bound in given.items():
            before = found.get(name, FindingBounds())
            found[name] = before.model_copy(update={side: bound})
    return found


def judge_images(measures: np.ndarray, bounds: Mapping[str, FindingBounds]) -> np.ndarray:
    """Judges images.

    Args:
        measures: float32 [n, ...], see `image_measures.MEASURES`.
        bounds: The bounds to apply.

    Returns:
        bool [n, len(FINDINGS)].
    """
    named = derived(measures)
    found = np.zeros((len(measures), len(FINDINGS)), bool)
    for rule in _RULES:
        known = bounds.get(rule.finding)
        bound = known and (known.above if rule.above else known.below)
        if bound is not None:
            values = named[rule.measure]
            hit = values > bound if rule.above else values < bound
            found[:, FINDINGS.index(rule.finding)] |= hit
    also = [FINDINGS.index(name) for name in _MEANS_BLANK]
    found[:, also] &= ~found[:, [FINDINGS.index("blank")]]
    return found


def describe_bounds(finding: str, bounds: FindingBounds) -> str:
    """Says when an image has a finding, for example `brightest level below 97`."""
    measure = next(rule.measure for rule in _RULES if rule.finding == finding)
    sides = (("below", bounds.below), ("above", bounds.above))
    parts = [f"{side} {bound:.3g}" for side, bound in sides if bound is not None]
    return f"{_MEANINGS[measure]} {' or '.join(parts)}"
