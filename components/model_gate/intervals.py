"""Computes confidence intervals of shares, paired changes and means, and required sample sizes.

The gate's rules call it. All results are closed forms or roots of closed forms, without sampling.
"""

import math
from typing import NamedTuple

from scipy import optimize, stats


class Interval(NamedTuple):
    """Holds the ends of a two-sided confidence interval."""

    low: float
    high: float


def normal_quantile(confidence: float) -> float:
    """Returns the normal quantile of a two-sided interval, 1.96 for a confidence of 0.95."""
    return float(stats.norm.ppf(0.5 + confidence / 2))


def share_interval(count: float, total: float, confidence: float) -> Interval:
    """Returns Wilson's score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Args:
        count: Number of images with the property, rounded to an integer because it may be an
            accuracy times the number of images; NaN gives [0, 1].
        total: Number of images; 0 gives [0, 1].
        confidence: Two-sided confidence level.
    """
    if total <= 0 or math.isnan(count):
        return Interval(0.0, 1.0)
    found = stats.binomtest(round(count), round(total)).proportion_ci(confidence, "wilson")
    return Interval(float(found.low), float(found.high))


def exact_share_interval(count: float, total: float, confidence: float) -> Interval:
    """Returns the exact interval of a share (Clopper and Pearson 1934, Biometrika 26:404).

    Each end fails at a rate of at most (1 - confidence) / 2, whatever the share and the number of
    images. Wilson's interval keeps its level on average over shares only: of two images with a
    share of 0.8, its upper end at a confidence of 0.995 fails at 4 % instead of 0.25 %.

    Args:
        count: As for `share_interval`.
        total: As for `share_interval`.
        confidence: Two-sided confidence level.
    """
    if total <= 0 or math.isnan(count):
        return Interval(0.0, 1.0)
    # `scipy.stats.binomtest` gives the same, but searches for the ends, which takes 10 ms.
    hits, images, tail = round(count), round(total), (1 - confidence) / 2
    low = stats.beta.ppf(tail, hits, images - hits + 1) if hits else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, images - hits) if hits < images else 1.0
    return Interval(float(low), float(high))


def images_below_floor(floor: float, confidence: float) -> int:
    """Returns how many images a share takes to lie surely below a floor, if none is a hit.

    Args:
        floor: The floor, in (0, 1].
        confidence: Two-sided confidence level of `exact_share_interval`.
    """
    # The upper end of 0 of n is 1 - tail^(1/n).
    return 1 if floor >= 1 else math.floor(math.log((1 - confidence) / 2) / math.log1p(-floor)) + 1


def paired_interval(gained: float, lost: float, total: float, confidence: float) -> Interval:
    """Returns Tango's score interval of the difference of two paired shares.

    Tango (1998), Statistics in Medicine 17:891: the differences d that the score test of
    "p1 - p2 = d" does not reject. At d = 0 that test is McNemar's. It keeps its level on small
    samples and stays meaningful if the two models never differ. SciPy has no interval for the
    difference of paired shares.

    Args:
        gained: Number of images that only the first model classifies correctly.
        lost: Number of images that only the second model classifies correctly.
        total: Number of images.
        confidence: Two-sided confidence level.

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

    # score() decreases with d: it exceeds any z at the ends and is 0 at the measured difference.
    edge = 1 - 1e-12
    low = -1.0
    if difference > -edge and score(-edge) > z:
        low = optimize.brentq(lambda d: score(d) - z, -edge, difference)
    high = 1.0
    if difference < edge and score(edge) < -z:
        high = optimize.brentq(lambda d: score(d) + z, difference, edge)
    return Interval(float(low), float(high))


def mean_interval(mean: float, deviation: float, count: float, confidence: float) -> Interval:
    """Returns Student's t interval of a mean; it is unbounded for fewer than two values.

    `scipy.stats.t.interval` computes the same, but returns NaN if all values are equal; the
    interval is then the mean itself.

    Args:
        mean: Mean of the values.
        deviation: Standard deviation of the values, with n - 1 in the denominator.
        count: Number of values.
        confidence: Two-sided confidence level.
    """
    if count < 2:
        return Interval(-math.inf, math.inf)
    half = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * deviation / math.sqrt(count)
    return Interval(mean - half, mean + half)


class Rise(NamedTuple):
    """Holds by how much the log loss of one model exceeds that of another on the same images.

    Attributes:
        mean: Mean of the differences, nats.
        deviation: Standard deviation of the differences, with n - 1 in the denominator.
        mistake: Mean over the images of -log(1 - confidence) of the model: the least that an
            image costs whose predicted label is wrong, nats. NaN if it was not measured.
        baseline_mistake: The same for the other model.
    """

    mean: float
    deviation: float
    mistake: float
    baseline_mistake: float


def rise_interval(rise: Rise, count: float, confidence: float) -> Interval:
    """Returns an interval of a rise of the log loss; it is unbounded for fewer than two images.

    Few images may contain none of the rare mistakes that make up most of the log loss of a good
    model. Student's interval then is short, around a mean that lacks them. Each end here is
    Student's, or that of one image more, on which only one of the models errs, whichever is
    further out.

    Args:
        rise: The measured rise.
        count: Number of images.
        confidence: Two-sided confidence level.
    """
    low, high = mean_interval(rise.mean, rise.deviation, count, confidence)
    if count < 2:
        return Interval(low, high)
    for added in (rise.mistake, -rise.baseline_mistake):
        step = added - rise.mean
        variance = ((count - 1) * rise.deviation**2 + step**2 * count / (count + 1)) / count
        more = mean_interval(
            rise.mean + step / (count + 1), math.sqrt(variance), count + 1, confidence
        )
        # Comparisons with NaN are false, which leaves Student's interval.
        low = more.low if added < 0 and more.low < low else low
        high = more.high if added > 0 and more.high > high else high
    return Interval(low, high)


def images_to_decide_rise(rise: Rise, *, most: float, confidence: float) -> int | None:
    """Estimates how many test images would show that a rise is at most `most`.

    Args:
        rise: The measured rise; more images are assumed to have the same.
        most: The allowed rise, nats.
        confidence: Two-sided confidence level of the interval.

    Returns:
        The number of images; None if the measured rise itself exceeds the allowed one.
    """
    if not rise.mean < most or math.isnan(rise.deviation):
        return None
    low, high = 1, 2
    while rise_interval(rise, high, confidence).high > most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = rise_interval(rise, middle, confidence).high <= most
        low, high = (low, middle) if enough else (middle, high)
    return high


def images_to_decide(
    gained: float, lost: float, total: float, *, drop: float, confidence: float
) -> int | None:
    """Estimates how many test images would decide a change, assuming the measured rates.

    The half-width of the large-sample interval is z sqrt((s - d^2) / n), with s the share of images
    on which only one model is correct and d the difference. It has to fall to d + drop.

    Args:
        gained: As for `paired_interval`.
        lost: As for `paired_interval`.
        total: As for `paired_interval`.
        drop: The allowed loss.
        confidence: Two-sided confidence level of the interval.

    Returns:
        The number of images; None if the measured change itself exceeds the allowed loss.
    """
    difference = (gained - lost) / total
    room = difference + drop
    if room <= 0:
        return None
    z2 = normal_quantile(confidence) ** 2
    # If the models hardly differ, the width of the score interval is about z^2 / n.
    spread = max((gained + lost) / total - difference**2, 0.0)
    return math.ceil(max(z2 * spread / room**2, z2 / room))
