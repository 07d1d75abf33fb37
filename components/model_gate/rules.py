"""Applies the configured bounds to the metrics and returns the rows of the verdict.

docs/evaluation.md describes the rules with their sources and error rates.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from components.model_gate import metric_names as m
from components.model_gate.change_rules import change_checks
from components.model_gate.config import EvaluationConfig
from components.model_gate.intervals import (
    exact_share_interval,
    images_below_floor,
    share_interval,
)
from components.model_gate.measures import Measures, SliceMeasures
from components.model_gate.unlabelled_gain import GAIN, UnlabelledGain
from components.model_gate.verdict import Check, Result, Verdict

_NAMED: Final = 5
"""Number of classes named in one row."""


def judge_model(
    measures: Measures, bounds: EvaluationConfig, *, gain: UnlabelledGain | None = None
) -> Verdict:
    """Judges a model.

    Args:
        measures: Metrics of the candidate, and of it and the last blessed model on the same images.
        bounds: The configured bounds.
        gain: The comparison with a model trained on labelled images alone, if there is one.

    Returns:
        The verdict with its reasons.
    """
    paired = measures.overall.paired
    return Verdict(
        checks=[
            *_absolute(measures, bounds),
            *_floors(measures, bounds),
            *_missing_classes(measures, bounds),
            *_new_classes(measures),
            *change_checks(paired, bounds),
            *(gain.checks(bounds) if gain else ()),
        ],
        first_model=not paired,
        measures={**_as_json(measures), **({GAIN: gain.as_dict()} if gain else {})},
    )


def _absolute(measures: Measures, bounds: EvaluationConfig) -> Iterator[Check]:
    values, images = measures.overall.values, measures.overall.images
    accuracy = values.get(m.ACCURACY, math.nan)
    low, high = share_interval(accuracy * images, images, bounds.confidence)
    yield _bounded(
        "accuracy",
        accuracy,
        key="min_accuracy",
        least=bounds.min_accuracy,
        shown=f"{accuracy:.4f} ({low:.4f} to {high:.4f})",
    )
    yield _bounded(
        "balanced accuracy",
        measures.balanced_accuracy,
        key="min_balanced_accuracy",
        least=bounds.min_balanced_accuracy,
    )
    yield Check(f"top-{bounds.top_k} accuracy", _shown(values.get(m.TOP_K)))
    yield _bounded(
        "log loss",
        values.get(m.LOG_LOSS, math.nan),
        key="max_log_loss",
        most=bounds.max_log_loss,
        unit=" nats",
    )
    yield Check("Brier score", _shown(values.get(m.BRIER)))
    yield _calibration(values, images, bounds)
    yield Check("ELBO, nats", _shown(values.get(m.ELBO), 2))
    yield Check("bits per dimension", _shown(values.get(m.BITS)))
    if values.get(m.IMPORTANCE_IMAGES):
        bound, error, elbo = (
            _shown(values.get(name), 2)
            for name in (m.IMPORTANCE_BOUND, m.IMPORTANCE_ERROR, m.IMPORTANCE_ELBO)
        )
        number = (
            f"k = {values[m.IMPORTANCE_SAMPLES]:.0f}, {values[m.IMPORTANCE_IMAGES]:,.0f} images"
        )
        yield Check(
            "importance-weighted bound, nats",
            f"{bound} ± {error}, ELBO of its samples {elbo} ({number})",
        )
    median, most = (_shown(values.get(m.OUTLIER_QUANTILES[level]), 2) for level in (0.5, 0.95))
    yield Check("outlier score", f"median {median}, 95 % {most}")


def _calibration(values: Mapping[str, float], images: int, bounds: EvaluationConfig) -> Check:
    error = values.get(m.CALIBRATION_ERROR, math.nan)
    # Measurements of earlier versions, which the cache still has, lack what chance gives.
    high = values.get(m.CALIBRATION_CHANCE_HIGH, math.nan)
    most = bounds.max_calibration_error
    check = _bounded(
        "calibration error",
        error,
        key="max_calibration_error",
        most=most,
        shown="" if math.isnan(high) else f"{_shown(error)} (chance: {high:.4f})",
    )
    if check.blocks and most is not None and high > most:
        hint = (
            f"; on {images:,} images even a perfectly calibrated model has up to {high:.4f}, so "
            "give more test images or raise the bound"
        )
        return replace(check, reason=check.reason + hint)
    return check


def _bounded(
    metric: str,
    value: float,
    *,
    key: str,
    least: float | None = None,
    most: float | None = None,
    shown: str = "",
    unit: str = "",
) -> Check:
    text = shown or f"{_shown(value)}{unit}"
    if least is None and most is None:
        return Check(metric, text)
    # The comparisons are written so that NaN does not pass.
    holds = value >= least if least is not None else most is not None and value <= most
    bound = f">= {least:g}" if least is not None else f"<= {most:g}"
    side = "below" if least is not None else "above"
    limit = least if least is not None else most
    return Check(
        metric,
        text,
        bound,
        Result.PASSED if holds else Result.REFUSED,
        blocks=not holds,
        reason="" if holds else f"{metric} {value:.4f} is {side} evaluation.{key} {limit:.4f}",
    )


def _floors(measures: Measures, bounds: EvaluationConfig) -> Iterator[Check]:
    """Yields the weakest class, the weakest slice of each kind, and all that are below a floor."""
    yield from _floor(
        "class",
        [(each.name, each.hits, each.images) for each in measures.classes if each.images],
        floor=bounds.min_class_recall,
        key="min_class_recall",
        confidence=bounds.confidence,
    )
    for kind, parts in measures.slices.items():
        if kind != m.CLASS_SLICE:
            yield from _floor(
                kind,
                [
                    (name, _hits(part), part.images)
                    for name, part in zip(_short(list(parts)), parts.values(), strict=True)
                ],
                floor=bounds.min_slice_accuracy,
                key="min_slice_accuracy",
                confidence=bounds.confidence,
            )


def _missing_classes(measures: Measures, bounds: EvaluationConfig) -> Iterator[Check]:
    """Names classes that nothing is known of: without test images, or gone since the last model.

    Where classes have a floor, they are refused, because the floor cannot be shown to hold.
    """
    floor = bounds.min_class_recall
    untested = [each.name for each in measures.classes if not each.images]
    for metric, names, why in (
        ("classes without test images", untested, "have no test image"),
        (
            "classes gone",
            list(measures.gone_classes),
            "of the last blessed model are no longer in the data",
        ),
    ):
        if not names:
            continue
        blocks, shown = floor is not None, _first(names)
        yield Check(
            metric,
            f"{len(names):,}: {shown}",
            "none" if blocks else "",
            Result.REFUSED if blocks else Result.MEASURED,
            blocks=blocks,
            reason=f"{len(names):,} classes ({shown}) {why}, so that evaluation.min_class_recall"
            f" {floor:.4f} cannot be shown for them"
            if floor is not None
            else "",
        )


def _new_classes(measures: Measures) -> Iterator[Check]:
    """Says how many test images count as a gain whatever the model does on the other classes."""
    if names := list(measures.new_classes):
        images = sum(each.images for each in measures.classes if each.name in names)
        yield Check(
            "classes new",
            f"{len(names):,}: {_first(names)}; {images:,} test images that the last blessed model"
            " cannot know",
        )


def _short(paths: list[str]) -> list[str]:
    """Returns the last parts of paths if these are unique; otherwise the paths themselves."""
    last = [path.rpartition("/")[2] for path in paths]
    return last if len(set(last)) == len(last) and all(last) else paths


def _hits(part: SliceMeasures) -> int:
    return round(part.values.get(m.ACCURACY, 0.0) * part.images)


def _floor(
    kind: str,
    shares: list[tuple[str, int, int]],
    *,
    floor: float | None,
    key: str,
    confidence: float,
) -> Iterator[Check]:
    """Refuses parts that are significantly below a floor.

    A part is significantly below if the upper end of its exact interval is. The level is divided
    among the parts (Bonferroni), so that a model that is exactly at the floor everywhere is refused
    at most at the stated rate, whatever the number and size of the parts. Parts of so few images
    that they cannot fail are named.

    Args:
        kind: The kind of the parts: class, archive or size.
        shares: Name, hits and images of each part.
        floor: The smallest allowed share; None only reports the weakest of several parts.
        key: The configuration key of the floor.
        confidence: Two-sided confidence level of all intervals together.
    """
    # A single part is the whole split, which has its own row.
    if not shares or (floor is None and len(shares) == 1):
        return
    level = 1 - (1 - confidence) / len(shares)
    weakest = min(shares, key=lambda part: part[1] / part[2])
    for part in shares:
        name, hits, images = part
        low, high = exact_share_interval(hits, images, level)
        below = floor is not None and high < floor
        if not below and part is not weakest:
            continue
        yield Check(
            f"weakest {kind}: {name}" if part is weakest else f"{kind} {name}",
            f"{hits:,} of {images:,} ({low:.3f} to {high:.3f})",
            "" if floor is None else f"high >= {floor:g}",
            Result.MEASURED if floor is None else Result.REFUSED if below else Result.PASSED,
            blocks=below,
            reason=f"{'recall' if kind == m.CLASS_SLICE else 'accuracy'} of {kind} {name} is "
            f"{hits / images:.4f}, at most {high:.4f}, below evaluation.{key} {floor:.4f}"
            if below
            else "",
        )
    needed = images_below_floor(floor, level) if floor else 0
    small = [name for name, _, images in shares if images < needed]
    if small:
        yield Check(
            f"{kind} floor not testable",
            f"{len(small):,}: {_first(small)} (< {needed:,} test images)",
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)


def _shown(value: float | None, digits: int = 4) -> str:
    return "not measured" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _as_json(measures: Measures) -> dict[str, Any]:
    def of(part: SliceMeasures) -> dict[str, Any]:
        values = {name: value for name, value in part.values.items() if name != m.CONFUSION}
        return {**values, **part.paired}

    return {
        "overall": {**of(measures.overall), "balanced_accuracy": measures.balanced_accuracy},
        "classes": {
            each.name: {"images": each.images, "recall": each.recall, "precision": each.precision}
            for each in measures.classes
        },
        "slices": {
            kind: {name: of(part) for name, part in parts.items()}
            for kind, parts in measures.slices.items()
        },
        "confusion": [
            {"truth": truth, "given": given, "images": count}
            for (truth, given), count in sorted(measures.confusion.items())
        ],
    }
