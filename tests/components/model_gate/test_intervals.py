"""Intervals against published figures and against their stated error rates on drawn outcomes."""

import functools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from components.model_gate.change_rules import judge_interval
from components.model_gate.intervals import (
    Interval,
    Rise,
    exact_share_interval,
    images_below_floor,
    images_to_decide,
    images_to_decide_rise,
    mean_interval,
    paired_interval,
    rise_interval,
    share_interval,
)
from components.model_gate.verdict import Result

RATE = 0.025
DRAWS = 1000
MARGIN = 0.01


def test_intervals_of_shares_are_those_of_the_paper_and_of_scipy() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3.
    for count, total, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert share_interval(count, total, 0.95) == pytest.approx((low, high), abs=5e-5)
        exact = stats.binomtest(count, total).proportion_ci(0.99, "exact")
        assert exact_share_interval(count, total, 0.99) == pytest.approx(
            (exact.low, exact.high), abs=1e-9
        )


def test_no_hits_among_few_images_are_below_a_floor_from_the_stated_number_on() -> None:
    for floor, confidence in ((0.8, 0.95), (0.8, 0.995), (0.1, 0.95), (1.0, 0.95)):
        needed = images_below_floor(floor, confidence)
        assert exact_share_interval(0, needed, confidence).high < floor
        assert needed == 1 or exact_share_interval(0, needed - 1, confidence).high >= floor


@pytest.mark.parametrize(("gained", "lost", "total"), [(12, 2, 50), (1, 6, 233), (40, 55, 1000)])
def test_the_ends_are_where_the_score_test_turns(gained: int, lost: int, total: int) -> None:
    # The test's variance under "the difference is d", by maximising the likelihood numerically.
    for end, z in zip(
        paired_interval(gained, lost, total, 0.95), (1.959964, -1.959964), strict=True
    ):

        def minus_log_likelihood(loss: float, end: float = end) -> float:
            shares = np.array([loss + end, loss, 1 - 2 * loss - end])
            return -float(np.dot([gained, lost, total - gained - lost], np.log(shares)))

        bounds = (max(0.0, -end) + 1e-9, (1 - end) / 2 - 1e-9)
        loss = optimize.minimize_scalar(
            minus_log_likelihood, bounds=bounds, options={"xatol": 1e-10}
        ).x
        variance = total * (2 * loss + end - end**2)
        assert (gained - lost - total * end) / math.sqrt(variance) == pytest.approx(z, abs=1e-3)


def test_the_interval_excludes_no_change_exactly_where_mcnemars_test_does() -> None:
    for gained in range(0, 25):
        for lost in range(0, 25):
            if gained == lost:
                continue
            low, high = paired_interval(gained, lost, 200, 0.95)
            statistic = (gained - lost) ** 2 / (gained + lost)
            assert (low > 0 or high < 0) == (stats.chi2.sf(statistic, 1) < 0.05)


def test_the_interval_turns_with_the_models() -> None:
    low, high = paired_interval(7, 3, 150, 0.9)
    assert paired_interval(3, 7, 150, 0.9) == pytest.approx((-high, -low), abs=1e-9)


def test_models_that_never_differ_have_an_interval_that_shrinks_with_the_images() -> None:
    low, high = paired_interval(0, 0, 100, 0.95)
    assert low == pytest.approx(-high, abs=1e-9)
    z2 = 1.959964**2
    assert high == pytest.approx(z2 / (100 + z2), abs=1e-6)


@pytest.mark.parametrize("counts", [(0, 0, 0), (5, 0, 5), (0, 5, 5), (1, 0, 1)])
def test_extreme_counts_give_bounds_within_the_range(counts: tuple[int, int, int]) -> None:
    low, high = paired_interval(*counts, 0.95)
    gained, lost, total = counts
    assert -1 <= low <= (gained - lost) / max(total, 1) <= high <= 1


def test_a_mean_without_two_values_tells_nothing() -> None:
    assert mean_interval(0.3, math.nan, 1, 0.95) == (-math.inf, math.inf)
    values = np.random.default_rng(1).normal(0.2, 1.0, 50)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values.mean(), values.std(ddof=1), 50, 0.95) == pytest.approx(
        (expected.low, expected.high)
    )


def rise_with(mistakes: int, images: int) -> Rise:
    """The rise by a model that is too sure: 5 nats on its mistakes, a fall of 0.05 otherwise."""
    values = np.repeat([5.0, -0.05], [mistakes, images - mistakes])
    return Rise(values.mean(), values.std(ddof=1), mistake=6.0, baseline_mistake=3.0)


@pytest.mark.parametrize("images", [30, 100, 300])
def test_a_log_loss_that_rises_by_rare_mistakes_passes_at_most_at_the_stated_rate(
    images: int,
) -> None:
    share = 0.02
    true = 5.0 * share - 0.05 * (1 - share)
    # Hardly any draw has 40 mistakes.
    outcomes = stats.binom(images, share)
    passed = [
        outcomes.pmf(mistakes)
        for mistakes in range(min(images, 40))
        if rise_interval(rise_with(mistakes, images), images, 0.95).high <= true
    ]
    assert sum(passed) <= RATE
    # The other way round the other model makes them, and the rise must not be a sure one.
    refused = [
        outcomes.pmf(mistakes)
        for mistakes in range(min(images, 40))
        if rise_interval(opposite(rise_with(mistakes, images)), images, 0.95).low >= -true
    ]
    assert sum(refused) <= RATE


def opposite(rise: Rise) -> Rise:
    return Rise(-rise.mean, rise.deviation, rise.baseline_mistake, rise.mistake)


def test_one_image_more_gives_the_ends_of_a_rise() -> None:
    values = np.random.default_rng(3).normal(0.01, 0.1, 40)
    rise = Rise(values.mean(), values.std(ddof=1), 4.0, 3.0)
    ends = [np.append(values, added) for added in (-3.0, 4.0)]
    low, high = (stats.ttest_1samp(each, 0).confidence_interval(0.95) for each in ends)
    assert rise_interval(rise, 40, 0.95) == pytest.approx((low.low, high.high))
    unknown = rise._replace(mistake=math.nan, baseline_mistake=math.nan)
    student = mean_interval(rise.mean, rise.deviation, 40, 0.95)
    assert rise_interval(unknown, 40, 0.95) == student
    # A mistake that costs less than the images do says nothing new.
    cheap = rise._replace(mistake=1e-9, baseline_mistake=1e-9)
    assert rise_interval(cheap, 40, 0.95) == student
    assert rise_interval(rise, 1, 0.95) == (-math.inf, math.inf)


def test_the_number_of_images_that_would_decide_a_rise_does() -> None:
    rise = Rise(0.0, 0.2, 5.0, 5.0)
    needed = images_to_decide_rise(rise, most=0.02, confidence=0.95)
    assert needed is not None
    assert rise_interval(rise, needed, 0.95).high <= 0.02
    assert rise_interval(rise, needed - 1, 0.95).high > 0.02
    assert images_to_decide_rise(rise, most=0.0, confidence=0.95) is None


@functools.cache
def verdict(gained: int, lost: int, images: int) -> Result:
    return judge_interval(paired_interval(gained, lost, images, 0.95), MARGIN)


def outcomes(true_change: float, differing: float, images: int) -> dict[Result, float]:
    """Shares of the verdicts over drawn test splits: the two models' hits on the same images."""
    draw = np.random.default_rng(20261122)
    gain, loss = (differing + true_change) / 2, (differing - true_change) / 2
    counts = draw.multinomial(images, [gain, loss, 1 - gain - loss], DRAWS)
    found = [verdict(int(gained), int(lost), images) for gained, lost, _ in counts]
    return {result: found.count(result) / DRAWS for result in Result}


def allowed(rate: float) -> float:
    """The rate with four standard errors of the draws."""
    return rate + 4 * math.sqrt(rate * (1 - rate) / DRAWS)


@pytest.mark.parametrize(("differing", "images"), [(0.03, 400), (0.05, 2000), (0.02, 10_000)])
def test_a_model_that_is_worse_by_the_margin_passes_at_most_at_the_stated_rate(
    differing: float, images: int
) -> None:
    assert outcomes(-MARGIN, differing, images)[Result.PASSED] <= allowed(RATE)


@pytest.mark.parametrize(("differing", "images"), [(0.03, 400), (0.05, 2000), (0.02, 10_000)])
@pytest.mark.parametrize("true_change", [0.0, 0.005])
def test_a_model_that_is_no_worse_is_refused_at_most_at_the_stated_rate(
    true_change: float, differing: float, images: int
) -> None:
    assert outcomes(true_change, differing, images)[Result.REFUSED] <= allowed(RATE)


def test_enough_images_decide_either_way() -> None:
    assert outcomes(0.0, 0.02, 10_000)[Result.PASSED] > 0.99
    assert outcomes(-0.02, 0.03, 10_000)[Result.REFUSED] > 0.99
    # Too few leave it open and do not guess.
    assert outcomes(0.0, 0.05, 300)[Result.UNDECIDED] > 0.5


def test_the_rule_has_three_answers() -> None:
    assert judge_interval(Interval(-0.009, 0.02), MARGIN) is Result.PASSED
    assert judge_interval(Interval(-0.008, -0.001), MARGIN) is Result.PASSED
    assert judge_interval(Interval(-0.02, -0.001), MARGIN) is Result.REFUSED
    assert judge_interval(Interval(-0.02, 0.02), MARGIN) is Result.UNDECIDED
    assert judge_interval(Interval(math.nan, math.nan), MARGIN) is Result.UNDECIDED


def test_the_number_of_images_that_would_decide_does() -> None:
    needed = images_to_decide(6, 6, 400, drop=MARGIN, confidence=0.95)
    assert needed is not None
    assert needed > 400
    share = 6 / 400 * needed
    low, _ = paired_interval(share, share, needed, 0.95)
    assert low == pytest.approx(-MARGIN, rel=0.1)
    assert images_to_decide(0, 8, 400, drop=MARGIN, confidence=0.95) is None
