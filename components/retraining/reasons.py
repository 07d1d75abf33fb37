"""Decides whether to retrain; `vaeline retrain` and the InputState step call it.

Decisions are pure functions of their arguments: no clock, no files, no metadata store.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.spans import available_spans, resolve
from components.retraining.config import RetrainConfig

_SECONDS_PER_DAY = 86_400.0
_FORCE = "; --force trains again, as after a change of options"


@dataclass(frozen=True)
class Attempt:
    """Holds what the rules need to know of an earlier run that reached a verdict.

    A cluster has no metadata store that a step could read, so `history.py` keeps attempts in a
    JSON file there. On one machine they are created from `pipeline.runs.run.Run`.

    Attributes:
        run: Name of the run.
        span: Latest span of its images.
        fingerprint: Digest of its images.
        ended: End of the run in seconds since 1970-01-01 UTC.
        blessed: Whether the model was blessed.
    """

    run: str
    span: int
    fingerprint: str
    ended: float
    blessed: bool


@dataclass(frozen=True)
class Images:
    """Describes the images that are currently available.

    Attributes:
        input_config: The input section, with spans resolved.
        spans: All available spans; empty if the paths have none.
        span: The latest span that would be read.
        version: The version of that span; None without versions.
        fingerprint: Fingerprint of the images that would be read.
    """

    input_config: InputConfig
    spans: tuple[int, ...]
    span: int
    version: int | None
    fingerprint: str


@dataclass(frozen=True)
class Drift:
    """Holds the drift that a bulk job reported.

    Attributes:
        path: Path of the report.
        alarm: Whether the archive differs from the training data.
        reported: Time of the report in seconds since 1970-01-01 UTC.
    """

    path: str
    alarm: bool
    reported: float


@dataclass(frozen=True)
class Decision:
    """Holds the decision whether to train, with a one-line explanation."""

    train: bool
    reason: str


def look(config: InputConfig) -> Images:
    """Finds the available images without reading them.

    Raises:
        InputError: if a path does not exist or no span matches.
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
    """Parses a bulk job's drift.json.

    Args:
        path: The path of the file, for error messages.
        text: The content of the file.
        reported: When it was written, in seconds since 1970-01-01 UTC.

    Raises:
        ValueError: if the content is not a drift report.
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
    """Decides whether to train on the images that are currently available.

    The same images are never trained on twice: a refused model would be refused again, and a
    blessed model already exists.

    Args:
        images: The available images.
        attempts: Earlier trainings with a verdict, oldest first.
        config: The reasons to retrain.
        drift: The last drift report of a bulk job.
        now: The current time in seconds since 1970-01-01 UTC.
        force: Whether to train in any case.
        unfinished: Which run on the same images did not reach a verdict, and how it ended.
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
                False,
                f"run {attempt.run} trained on these images and was {verdict}{hint or _FORCE}",
            )
    if unfinished:
        return Decision(True, f"{unfinished} and resumes")
    if blessed is None:
        return Decision(True, "there is no blessed model yet")
    new = len([span for span in images.spans if span > blessed.span])
    news = _news(images, new)
    if is_drifted and drift is not None:
        return Decision(True, f"{drift.path} reports drift, and {news}")
    age_days = (now - blessed.ended) / _SECONDS_PER_DAY
    if config.max_age_days is not None and age_days > config.max_age_days:
        return Decision(True, f"the last blessed model is {age_days:.1f} days old, and {news}")
    # Without spans, or if an old span changed, the change itself counts as new data.
    if max(new, 1) >= config.min_new_spans or not images.spans:
        return Decision(True, f"{news} since the last blessed model")
    return Decision(
        False,
        f"{news}; retrain.min_new_spans asks for {config.min_new_spans}, no drift was reported "
        "since the last blessed model, and it is not too old",
    )


def _news(images: Images, new: int) -> str:
    if not images.spans:
        return "the images changed"
    if not new:
        # A late archive, a corrected or a removed one, corrections of labels, another window.
        return "earlier spans were added, changed or removed"
    return "1 span is new" if new == 1 else f"{new} spans are new"
