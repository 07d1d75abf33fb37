"""Confidence intervals of shares, of paired changes and of means, and how large a split must be.

The gate's rules call them; all are closed forms or the root of one, so nothing is drawn.
"""

import math
from typing import NamedTuple

from scipy import optimize, stats


class Interval(NamedTuple):
    """A two-sided confidence interval."""

    low: float
    high: float


def normal_quantile(confidence: float) -> float:
    """The z of a two-sided interval: 1.96 for 0.95."""
    return float(stats.norm.ppf(0.5 + confidence / 2))


def share_interval(count: float, total: float, confidence: float) -> Interval:
    """Returns Wilson's score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Args:
        count: Images that have the property. An accuracy times the number of images is rounded to
            the count that it stands for; NaN gives [0, 1].
        total: All images; 0 gives [0, 1].
        confidence: Two-sided.
    """
    if total <= 0 or math.isnan(count):
        return Interval(0.0, 1.0)
    found = stats.binomtest(round(count), round(total)).proportion_ci(confidence, "wilson")
    return Interval(float(found.low), float(found.high))


def paired_interval(gained: float, lost: float, total: float, confidence: float) -> Interval:
    """Returns Tango's score interval of the difference of two paired shares.

    Tango (1998), Statistics in Medicine 17:891: the differences d that the score test of
    "p1 - p2 = d" does not reject. At d = 0 that test is McNemar's. It holds its level on small
    samples and stays sensible where the two models never differ. SciPy has no interval of the
    difference of paired shares.

    Args:
        gained: Images that only the first is right on.
        lost: Images that only the second is right on.
        total: All images.
        confidence: Two-sided.

    Returns:
        The interval of the first share minus the second; [-1, 1] without images.
    """
    if total <= 0:
        return Interval(-1.0, 1.0)
    z = normal_quantile(confidence)
    difference = (gained - lost) / total

    def score(d: float) -> float:
        b = -gained - lost + (2 * total - gained + lost) * d
        c = -lost * d * (1 - d)
        share = (math.sqrt(max(b * b - 8 * total * c, 0.0)) - b) / (4 * total)
        variance = total * (2 * share + d * (1 - d))
        distance = gained - lost - total * d
        if variance <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    # score() falls with d; at the ends it is beyond any z, in the middle it is 0.
    edge = 1 - 1e-12
    low = -1.0
    if difference > -edge and score(-edge) > z:
        low = optimize.brentq(lambda d: score(d) - z, -edge, difference)
    high = 1.0
    if difference < edge and score(edge) < -z:
        high = optimize.brentq(lambda d: score(d) + z, difference, edge)
    return Interval(float(low), float(high))


def mean_interval(mean: float, deviation: float, count: float, confidence: float) -> Interval:
    """Returns Student's interval of a mean; with fewer than two values it is the whole line.

    `scipy.stats.t.interval` computes the same, but returns NaN for values that are all equal, where
    the interval is the mean itself.

    Args:
        mean: Of the values.
        deviation: Their standard deviation, with n - 1.
        count: How many.
        confidence: Two-sided.
    """
    if count < 2:
        return Interval(-math.inf, math.inf)
    half = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * deviation / math.sqrt(count)
    return Interval(mean - half, mean + half)


def images_to_decide(
    gained: float, lost: float, total: float, *, drop: float, confidence: float
) -> int | None:
    """About how many test images would settle a change, if it stays as it was measured.

    The half-width of the large-sample interval, z sqrt((s - d^2) / n) with s the share of images
    on which only one is right and d the difference, has to fall to d + drop.

    Args:
        gained: As for `paired_interval`.
        lost: As for `paired_interval`.
        total: As for `paired_interval`.
        drop: What is allowed.
        confidence: Of the interval.

    Returns:
        The number; None where the measured change itself is not allowed.
    """
    difference = (gained - lost) / total
    room = difference + drop
    if room <= 0:
        return None
    z2 = normal_quantile(confidence) ** 2
    # Where the models hardly differ the score interval is about z^2 / n wide.
    spread = max((gained + lost) / total - difference**2, 0.0)
    return math.ceil(max(z2 * spread / room**2, z2 / room))
