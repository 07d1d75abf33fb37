"""The rules that say whether to train again; `vaeline retrain` and the InputState step ask them.

Pure functions of what is known: no clock, no files, no metadata store.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.spans import available_spans, resolve
from components.retraining.config import RetrainConfig

_SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class Attempt:
    """A training that came to a verdict.

    Attributes:
        run: name of the run.
        span: latest span that it learned from.
        fingerprint: of its images.
        ended: seconds since 1970-01-01 UTC.
        blessed: the gate's answer.
    """

    run: str
    span: int
    fingerprint: str
    ended: float
    blessed: bool


@dataclass(frozen=True)
class Images:
    """The images that are there now.

    Attributes:
        input_config: the input section, its spans resolved.
        spans: all spans there are; empty where the paths have none.
        span: the latest that would be read.
        version: its version; None without versions.
        fingerprint: of what would be read.
    """

    input_config: InputConfig
    spans: tuple[int, ...]
    span: int
    version: int | None
    fingerprint: str


@dataclass(frozen=True)
class Drift:
    """What a bulk job found out about its archive.

    Attributes:
        path: the report.
        alarm: the archive differs from the training data.
        reported: seconds since 1970-01-01 UTC.
    """

    path: str
    alarm: bool
    reported: float


@dataclass(frozen=True)
class Decision:
    """Whether to train, and why (not), in a line."""

    train: bool
    reason: str


def look(config: InputConfig) -> Images:
    """Looks which images are there, without reading them.

    Raises:
        InputError: A path does not exist or no span matches.
    """
    resolved = resolve(config)
    return Images(
        input_config=resolved.config,
        spans=available_spans(config),
        span=resolved.span,
        version=resolved.version,
        fingerprint=fingerprint(resolved.config),
    )


def read_drift(path: str, text: str, reported: float) -> Drift:
    """Reads a bulk job's drift.json.

    Args:
        path: Where it lies, for the messages.
        text: Its content.
        reported: When it was written, seconds since 1970-01-01 UTC.

    Raises:
        ValueError: It is none.
    """
    try:
        return Drift(path, bool(json.loads(text)["alarm"]), reported)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no drift report of `vaeline classify`: {error}") from error


def decide(
    images: Images,
    attempts: Sequence[Attempt],
    config: RetrainConfig,
    *,
    drift: Drift | None = None,
    now: float,
    force: bool = False,
    unfinished: str = "",
) -> Decision:
    """Says whether to train on the images that are there now.

    The same images are never trained on twice: a model that was refused for them will be refused
    again, and one that was blessed is there.

    Args:
        images: What is there.
        attempts: Earlier trainings with a verdict, oldest first.
        config: What counts as a reason.
        drift: What the last bulk job reported.
        now: Seconds since 1970-01-01 UTC.
        force: Train whatever is known.
        unfinished: Name of a run on the same images that did not come to a verdict.
    """
    if force:
        return Decision(True, "it was forced")
    blessed = next((attempt for attempt in reversed(attempts) if attempt.blessed), None)
    is_drifted = (
        drift is not None and drift.alarm and (blessed is None or drift.reported > blessed.ended)
    )
    for attempt in reversed(attempts):
        if attempt.fingerprint == images.fingerprint:
            verdict = "blessed" if attempt.blessed else "refused"
            hint = "; drift is reported, but there are no new images" if is_drifted else ""
            return Decision(
                False, f"run {attempt.run} trained on these images and was {verdict}{hint}"
            )
    if unfinished:
        return Decision(True, f"run {unfinished} did not come to its end and goes on")
    if blessed is None:
        return Decision(True, "there is no blessed model yet")
    new = len([span for span in images.spans if span > blessed.span])
    news = _news(images, new)
    if is_drifted and drift is not None:
        return Decision(True, f"{drift.path} reports drift, and {news}")
    age_days = (now - blessed.ended) / _SECONDS_PER_DAY
    if config.max_age_days is not None and age_days > config.max_age_days:
        return Decision(True, f"the last blessed model is {age_days:.1f} days old, and {news}")
    # Without spans, or where an old span changed, the change itself is what is new.
    if max(new, 1) >= config.min_new_spans or not images.spans:
        return Decision(True, f"{news} since the last blessed model")
    return Decision(
        False,
        f"{news}; retrain.min_new_spans asks for {config.min_new_spans}, there is no drift alarm "
        "and the model is not too old",
    )


def _news(images: Images, new: int) -> str:
    if not images.spans:
        return "the images changed"
    if not new:
        return "spans that were trained on changed"
    return "1 span is new" if new == 1 else f"{new} spans are new"
