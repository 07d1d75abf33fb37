"""Compares an archive with the model's training data: tests, estimates, a verdict, a table.

`job.py` calls it at the end, on the sums that workers accumulated. The statistics are two-sample
tests on binned counts, which are cheap and exactly additive over any division of the work.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
from scipy import stats

from components.bulk_inference.drift.drift_sums import DriftSums, expected_shares
from trainer.model_card import FileMix, ModelCard

_FAMILIES: Final = (
    "latent",
    "brightness",
    "contrast",
    "outlier_score",
    "confidence",
    "classes",
    "format",
    "size",
)
"""Families of tests; each gets an equal share of the alarm rate."""

_MIXES: Final = ("format", "size")
_MOST_CATEGORIES: Final = 19
"""Number of formats or sizes that form categories, the most common of archive and training data
together; all others form one category."""

_SMALLEST_EFFECT: Final = 0.05
"""Total variation below which a difference never raises an alarm, because with a million images
every difference is significant."""

_LEAST_EXPECTED: Final = 5.0
"""Images of the smaller sample expected per bin for the chi-square approximation to be accurate."""
_MANY: Final = 25.0
"""Images of the smaller sample that no bin holds by chance where fewer than `_LEAST_EXPECTED` are
expected: a Poisson variable with the mean 5 reaches 25 less than once in 1e9."""

_EM_STEPS: Final = 200
_FEWEST_IMAGES: Final = 50
_FEWEST_KNOWN: Final = 15
"""With 10 even inverted digits raised no alarm, with 15 they always did."""
_MIX_LEVEL: Final = 0.01
"""Level of the test of the predicted labels, below which their mix is not that of the training."""
_FEW_KNOWN: Final = 100
"""Images behind the training summaries below which a note says how little they show."""


@dataclass(frozen=True)
class Test:
    """Holds the result of one comparison.

    Attributes:
        name: The quantity that is compared; of latent dimensions the one that differs most.
        statistic: Two-sample chi-square statistic.
        p_value: The p-value, corrected for the number of dimensions.
        distance: Total variation between archive and training data, 0 to 1.
        alarm: Whether both the p-value and the distance indicate a difference.
    """

    name: str
    statistic: float
    p_value: float
    distance: float
    alarm: bool


@dataclass(frozen=True)
class DriftReport:
    """Holds the result of comparing an archive with the training data.

    Attributes:
        images: Number of images of the archive that were counted.
        training_images: Number of images behind the training summaries.
        alarm: Whether any test raises an alarm.
        alarm_rate: Share of archives without drift that may raise an alarm.
        tests: One test per family.
        outlier_share: Share of images that score above the training data's 95 % quantile.
        labels: Predicted share of each class.
        prior_shift: Estimated share of each class, corrected for the classifier's errors.
        mix_differs: Whether the predicted labels have another mix than those of the held-out
            images. Otherwise the estimate shows only how badly the model is calibrated.
        training_labels: Share of each class as predicted on the held-out images.
        formats: Images by format.
        sizes: Images by width and height, for the most common sizes.
        note: The reason why parts of the report are missing.
    """

    images: int
    training_images: int = 0
    alarm: bool = False
    alarm_rate: float = 0.0
    tests: list[Test] = field(default_factory=list)
    outlier_share: float | None = None
    labels: dict[str, float] = field(default_factory=dict)
    prior_shift: dict[str, float] = field(default_factory=dict)
    mix_differs: bool = False
    training_labels: dict[str, float] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as plain values."""
        return asdict(self)

    def as_markdown(self) -> str:
        """Returns the report as a Markdown table."""
        verdict = "ALARM" if self.alarm else "no alarm"
        lines = [f"# Drift: {verdict}", "", f"{self.images} images. {self.note}".strip(), ""]
        lines += ["| compared | distance | p | |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {test.name} | {test.distance:.3f} | {test.p_value:.2g} |"
            f" {'ALARM' if test.alarm else ''} |"
            for test in self.tests
        ]
        estimated = self.prior_shift if self.mix_differs else {}
        lines += ["", "| label | held-out | archive |" + " estimated |" * bool(estimated)]
        lines += ["| --- | --- | --- |" + " --- |" * bool(estimated)]
        lines += [
            f"| {name} | {self.training_labels.get(name, 0):.3f} | {share:.3f} |"
            + (f" {estimated[name]:.3f} |" if estimated else "")
            for name, share in self.labels.items()
        ]
        return "\n".join(lines) + "\n"


def judge_drift(card: ModelCard, sums: DriftSums, alarm_rate: float) -> DriftReport:
    """Compares an archive's sums with the training summaries.

    Args:
        card: The model with its summaries.
        sums: Sums over the whole archive.
        alarm_rate: Share of archives without drift that may raise an alarm, over all tests
            together (Bonferroni over families, and over dimensions within the latent family).
    """
    images = sums.mix["format"].total()
    mixes = {name: dict(sums.mix[name].most_common(20)) for name in ("format", "size")}
    report = partial(DriftReport, images, formats=mixes["format"], sizes=mixes["size"])
    known = card.summaries.images
    if known < _FEWEST_KNOWN:
        return report(
            note=f"Not judged: the model has {known} held-out images (input.splits) of at least"
            f" {_FEWEST_KNOWN} that it takes."
        )
    if images < _FEWEST_IMAGES:
        return report(note=f"Fewer than {_FEWEST_IMAGES} images are not judged.")
    few = (
        f"Only {known} images that the model has not learned stand for its training data, so that"
        " only large differences raise an alarm; larger shares in input.splits show smaller ones."
    )
    expected = _expected(card)
    tests = []
    for family in _FAMILIES:
        results = [
            (name, *two_sample(sums.counts[name], expected[name], known))
            for name in sorted(expected)
            if (name == family or name.startswith(f"{family}/")) and name in sums.counts
        ]
        if family in _MIXES and card.summaries.mix.images:
            results = [(family, *_compare_mix(card.summaries.mix, sums.mix[family], family))]
        if results:
            name, statistic, p_value, distance = min(results, key=lambda entry: entry[2])
            p_value = min(1.0, p_value * len(results))
            sure = p_value < alarm_rate / len(_FAMILIES)
            alarm = sure and distance >= _SMALLEST_EFFECT
            tests.append(Test(name, statistic, p_value, distance, alarm))
    trained = np.asarray(card.summaries.classes)
    counts = sums.counts.get("classes")  # rows that were kept may tell no labels
    # Priors come from the labels; cards without priors fall back to the predicted shares.
    priors = trained if card.summaries.priors is None else np.asarray(card.summaries.priors)
    prior = prior_shift(np.asarray(sums.posteriors), priors)
    return report(
        training_images=known,
        note=few if known < _FEW_KNOWN else "",
        alarm=any(test.alarm for test in tests),
        alarm_rate=alarm_rate,
        tests=tests,
        outlier_share=_outlier_share(card, sums),
        labels={} if counts is None else _named(card, counts / max(counts.sum(), 1)),
        prior_shift={} if counts is None else _named(card, prior),
        mix_differs=any(test.name == "classes" and test.p_value < _MIX_LEVEL for test in tests),
        training_labels={} if counts is None else _named(card, trained),
    )


def two_sample(counts: np.ndarray, expected: np.ndarray, known: int) -> tuple[float, float, float]:
    """Runs a two-sample chi-square test of counts against another sample's shares.

    The training data is a sample too; a goodness-of-fit test (`scipy.stats.chisquare`) would take
    its shares as exact.

    Args:
        counts: int [k], counts in the archive.
        expected: float [k], shares in the training data.
        known: Number of images behind those shares.

    Returns:
        Statistic, p-value, and total variation distance.
    """
    ours, theirs = _pool(counts.astype(float), expected * known)
    total = ours.sum()
    if total == 0 or len(ours) < 2:
        return 0.0, 1.0, 0.0
    # Yates' correction applies only to 2 x 2 tables, whose results would not be comparable.
    test = stats.chi2_contingency([ours, theirs], correction=False)
    distance = 0.5 * float(np.abs(ours / total - theirs / known).sum())
    return float(test.statistic), float(test.pvalue), distance


def _pool(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merges neighbouring bins until each is expected to hold enough of the smaller sample.

    In sparse bins the statistic has heavier tails than chi-square: with 200 images in bins of 1 %,
    p-values of 1e-4 occurred twice as often as they should. A bin that holds many images of the
    smaller sample stays, however few are expected: an archive much larger than the training data
    that lacks one of two classes would be merged into a single bin otherwise.

    Args:
        ours: float [k], counts.
        theirs: float [k], counts of the other sample.

    Returns:
        Both, over fewer bins.
    """
    both = ours + theirs
    small = min(ours, theirs, key=np.sum)
    expected = both * small.sum() / max(both.sum(), 1.0)
    group, filled, held, groups = 0, 0.0, 0.0, []
    for awaited, present in zip(expected, small, strict=True):
        groups.append(group)
        filled, held = filled + awaited, held + present
        if filled >= _LEAST_EXPECTED or held >= _MANY:
            group, filled, held = group + 1, 0.0, 0.0
    # An incomplete last group is merged into the group before it.
    joined = np.minimum(groups, max(group - 1, 0))
    return np.bincount(joined, ours), np.bincount(joined, theirs)


def _compare_mix(trained: FileMix, found: Counter[str], family: str) -> tuple[float, float, float]:
    """Compares formats or sizes, by categories that are common in both samples together.

    The most common ones of one sample are so by chance as well: where nearly every image has a size
    of its own, the other sample lacks them, and every archive would raise an alarm.
    """
    total, images = trained.images, found.total()
    known = Counter(getattr(trained, family))
    # A card names the most common sizes only; no other one has more images than the last of them.
    unnamed = min(known.values(), default=0) if known.total() < total else 0
    small, share = (known if total <= images else found), min(total, images) / (total + images)
    kept = [
        name
        for name, count in (known + found).most_common()
        if name != "other" and (count * share >= _LEAST_EXPECTED or small[name] >= _MANY)
    ][:_MOST_CATEGORIES]
    theirs, ours = [known.get(name, unnamed) for name in kept], [found[name] for name in kept]
    shares = np.array([*theirs, total - sum(theirs)]) / total
    return two_sample(np.array([*ours, images - sum(ours)]), shares, total)


def prior_shift(posteriors: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Estimates the true class shares by expectation maximisation.

    Saerens, Latinne and Decaestecker (2002): the calibrated probabilities are reweighted by the
    ratio of new to old shares until the shares agree with the mean of the probabilities.

    Args:
        posteriors: float [n, k], a sample of the archive's class probabilities.
        trained: float [k], class shares in the classifier's training data.

    Returns:
        float [k], shares that sum to 1.
    """
    if not len(posteriors):
        return trained
    old = np.maximum(trained, 1e-6)
    shares = old / old.sum()
    for _ in range(_EM_STEPS):
        weighted = posteriors * (shares / old)
        weighted /= np.maximum(weighted.sum(axis=1, keepdims=True), 1e-12)
        updated = weighted.mean(axis=0)
        if np.abs(updated - shares).max() < 1e-7:
            break
        shares = updated
    return shares


def _expected(card: ModelCard) -> dict[str, np.ndarray]:
    summaries = card.summaries
    levels = summaries.levels
    quantiles = {
        **{f"latent/{place}": row for place, row in enumerate(summaries.latent.quantiles)},
        "brightness": summaries.pixels.brightness,
        "contrast": summaries.pixels.contrast,
        "outlier_score": summaries.outlier_score,
        "confidence": summaries.confidence,
    }
    expected = {name: expected_shares(row, levels) for name, row in quantiles.items() if row}
    expected["classes"] = np.asarray(summaries.classes)
    return expected


def _outlier_share(card: ModelCard, sums: DriftSums) -> float | None:
    counts = sums.counts.get("outlier_score")
    if counts is None:
        return None
    quantiles, levels = card.summaries.outlier_score, card.summaries.levels
    upto = np.cumsum(expected_shares(quantiles, levels))
    above = upto > 0.95 + 1e-9
    return float(counts[above].sum() / max(counts.sum(), 1))


def _named(card: ModelCard, shares: np.ndarray) -> dict[str, float]:
    return {name: round(float(share), 6) for name, share in zip(card.classes, shares, strict=True)}
