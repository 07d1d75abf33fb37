"""Judges the change from the last blessed model: intervals of metrics, and flipped labels."""

import math
from collections.abc import Iterator, Mapping

from components.model_gate import metric_names as m
from components.model_gate.config import EvaluationConfig
from components.model_gate.intervals import (
    Interval,
    Rise,
    images_to_decide,
    images_to_decide_rise,
    paired_interval,
    rise_interval,
)
from components.model_gate.verdict import Check, Result

LAST_MODEL = "last blessed model"


def change_checks(paired: Mapping[str, float], bounds: EvaluationConfig) -> Iterator[Check]:
    """Judges the change from the last blessed model.

    Args:
        paired: Counts over the same images; empty without a baseline.
        bounds: The configured bounds.

    Yields:
        Rows of the verdict; for a first model one row that says so.
    """
    if not paired:
        yield Check(LAST_MODEL, "none: this is the first")
        return
    images = paired[m.PAIRED_IMAGES]
    gained, lost = paired[m.PAIRED_GAINED], paired[m.PAIRED_LOST]
    gain = (gained - lost) / images
    accuracy = (paired[m.PAIRED_BOTH] + lost) / images
    yield Check(LAST_MODEL, f"{accuracy:.4f}, log loss {paired[m.PAIRED_LOG_LOSS]:.4f}")
    yield _change(
        "change of accuracy",
        gain,
        paired_interval(gained, lost, images, bounds.confidence),
        margin=bounds.max_accuracy_drop,
        key="max_accuracy_drop",
        bounds=bounds,
        note=_would_tell(
            images_to_decide(
                gained,
                lost,
                images,
                drop=bounds.max_accuracy_drop,
                confidence=bounds.confidence,
            ),
            images,
        ),
    )
    rise = rise_of(paired)
    low, high = rise_interval(rise, images, bounds.confidence)
    if bounds.max_log_loss_rise is None:
        yield Check("rise of log loss", f"{rise.mean:+.4f} ({low:+.4f} to {high:+.4f})")
    else:
        # The rule expects higher to be better, so the sign of a rise in log loss is inverted.
        yield _change(
            "fall of log loss",
            -rise.mean,
            Interval(-high, -low),
            margin=bounds.max_log_loss_rise,
            key="max_log_loss_rise",
            bounds=bounds,
            note=_would_tell(
                images_to_decide_rise(
                    rise, most=bounds.max_log_loss_rise, confidence=bounds.confidence
                ),
                images,
            ),
        )
    yield _consequence(paired[m.PAIRED_FLIPS], images, gain, bounds)


def rise_of(paired: Mapping[str, float]) -> Rise:
    """Returns the rise of the log loss from metrics of both models on the same images."""
    return Rise(
        paired[m.PAIRED_RISE],
        paired[m.PAIRED_RISE_DEVIATION],
        # Measurements of earlier versions, which the cache still has, lack these two.
        paired.get(m.PAIRED_MISTAKE, math.nan),
        paired.get(m.PAIRED_BASELINE_MISTAKE, math.nan),
    )


def judge_interval(interval: Interval, margin: float) -> Result:
    """Judges the change of a metric for which higher is better.

    The change passes if the interval's lower end is at least -margin, which rules out a loss
    greater than the margin (a non-inferiority test). Otherwise it is refused if the upper end is
    below 0, so that the candidate is significantly worse, and undecided if not.

    Args:
        interval: The confidence interval of the change.
        margin: The allowed loss, positive.
    """
    if interval.low >= -margin:
        return Result.PASSED
    # With NaN neither comparison holds, so the result is undecided.
    return Result.REFUSED if interval.high < 0 else Result.UNDECIDED


def _change(
    metric: str,
    change: float,
    interval: Interval,
    *,
    margin: float,
    key: str,
    bounds: EvaluationConfig,
    note: str = "",
) -> Check:
    result = judge_interval(interval, margin)
    shown = f"{change:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
    reason = ""
    if result is Result.REFUSED:
        reason = (
            f"{metric} against the last blessed model {shown} is surely a loss and may exceed "
            f"evaluation.{key} {margin:.4f}"
        )
    elif result is Result.UNDECIDED:
        reason = (
            f"{metric} against the last blessed model {shown} is undecided: it may be a gain, or "
            f"a loss of more than evaluation.{key} {margin:.4f}{note}"
        )
    blocks = result is Result.REFUSED or (
        result is Result.UNDECIDED and bounds.when_undecided == "refuse"
    )
    return Check(metric, shown, f"low >= {-margin:g}", result, blocks, reason if blocks else "")


def _would_tell(needed: int | None, images: float) -> str:
    if needed is None or needed <= images:
        return ""
    return f"; about {needed:,} test images instead of {images:,.0f} would tell"


def _consequence(flips: float, images: float, gain: float, bounds: EvaluationConfig) -> Check:
    """Limits the share of labels that change, depending on the gain in accuracy.

    Both numbers are counts on one fixed sample, the test split, so neither has an interval. A gain
    of g requires at least the share g of the labels to change; the rest is churn (Milani Fard et
    al. 2016), which affects every consumer of the labels.
    """
    share = flips / images
    allowed = bounds.max_flips + bounds.flips_per_gain * max(0.0, gain)
    holds = share <= allowed
    return Check(
        "flipped labels",
        f"{share:.4f} ({flips:,.0f} of {images:,.0f})",
        f"<= {allowed:.4f}",
        Result.PASSED if holds else Result.REFUSED,
        blocks=not holds,
        reason=""
        if holds
        else f"{share:.4f} of the labels differ from the last blessed model's; for a gain of "
        f"{gain:+.4f} evaluation.max_flips and flips_per_gain allow {allowed:.4f}",
    )
