"""Resolves `{SPAN}`, `{YYYY}-{MM}-{DD}` and `{VERSION}` in paths, as FileBasedExampleGen does.

The driver resolves them before anything is read, so that a new day's folder is a new input.
"""

import datetime
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from components.image_sources.braces import expand_braces
from components.image_sources.config import InputConfig
from components.image_sources.locate import Locator
from trainer.errors import InputError

_TOKEN: Final = re.compile(r"\{(SPAN|VERSION|YYYY|MM|DD)(?::(\d+))?\}")
_DATE: Final = ("YYYY", "MM", "DD")
_DATE_WIDTHS: Final = {"YYYY": "4", "MM": "2", "DD": "2"}
_EPOCH: Final = datetime.date(1970, 1, 1)


class Resolved(NamedTuple):
    """Holds a configuration whose spans are resolved, and the span that was chosen.

    Attributes:
        config: The configuration with the paths of existing spans.
        span: The latest span read; days since 1970-01-01 for dates, 0 without spans.
        version: The latest version of that span; None without versions.
    """

    config: InputConfig
    span: int
    version: int | None


def resolve(config: InputConfig) -> Resolved:
    """Chooses the latest spans, each in its latest version.

    Args:
        config: The input section; `spans.latest` is the number of spans.

    Returns:
        The configuration with every pattern replaced by the paths of the spans.

    Raises:
        InputError: if a pattern is wrong, nothing matches, or paths have no span in common.
    """
    config = config.model_copy(update={"paths": tuple(expand_braces(config.paths))})
    found = _found(config)
    if not found:
        return Resolved(config, 0, None)
    common = _common(found)
    chosen = common if config.spans.latest == "all" else common[-config.spans.latest :]
    paths: list[str] = []
    for path in config.paths:
        spans_of = found.get(path)
        paths += [each for span in chosen for each in spans_of[span].paths] if spans_of else [path]
    versions = [spans[chosen[-1]].version for spans in found.values()]
    known = [version for version in versions if version is not None]
    return Resolved(
        config.model_copy(update={"paths": tuple(paths)}),
        chosen[-1],
        max(known) if known else None,
    )


def available_spans(config: InputConfig) -> tuple[int, ...]:
    """Returns the spans that all patterns share, oldest first; empty if there is no pattern.

    Raises:
        InputError: as for `resolve`.
    """
    found = _found(config)
    return tuple(_common(found)) if found else ()


def _found(config: InputConfig) -> dict[str, Mapping[int, "_Found"]]:
    paths = expand_braces(config.paths)
    return {path: _spans_of(path, config) for path in paths if _TOKEN.search(path)}


def _common(found: Mapping[str, Mapping[int, "_Found"]]) -> list[int]:
    common = set.intersection(*(set(spans) for spans in found.values()))
    if not common:
        raise InputError(f"{', '.join(found)}: no span that all of these paths have")
    return sorted(common)


class _Found(NamedTuple):
    """The latest version of a span, and its paths: several, if a glob is next to the tokens."""

    version: int | None
    paths: tuple[str, ...]


def _spans_of(pattern: str, config: InputConfig) -> Mapping[int, _Found]:
    """Finds the spans of one pattern, each with its latest version."""
    tokens = [match.group(1) for match in _TOKEN.finditer(pattern)]
    _check_tokens(pattern, tokens)
    # Only the part of the path with tokens is searched; the rest remains a pattern.
    last = list(_TOKEN.finditer(pattern))[-1].end()
    slash = pattern.find("/", last)
    head, tail = (pattern, "") if slash < 0 else (pattern[:slash], pattern[slash:])
    expression = re.compile(_to_regex(head))
    spans: dict[int, _Found] = {}
    for path in Locator(config).expand(_TOKEN.sub("*", head), pattern):
        match = expression.fullmatch(path)
        if match is None:
            continue
        values = {name: int(text) for name, text in match.groupdict().items()}
        span = values.get("SPAN")
        if span is None:
            try:
                date = datetime.date(*(values[name] for name in _DATE))
            except ValueError:
                continue
            span = (date - _EPOCH).days
        version = values.get("VERSION")
        known = spans.get(span)
        if known is None or (version or 0) > (known.version or 0):
            spans[span] = _Found(version, (path + tail,))
        elif version == known.version:
            spans[span] = _Found(version, (*known.paths, path + tail))
    if not spans:
        raise InputError(f"{pattern}: no span matches; check `paths` of the input")
    return spans


def _check_tokens(pattern: str, tokens: list[str]) -> None:
    """Raises for the patterns that TFX rejects."""
    dated = set(tokens) & set(_DATE)
    if len(set(tokens)) != len(tokens):
        raise InputError(f"{pattern}: a span mark is given twice")
    if dated and ("SPAN" in tokens or dated != set(_DATE)):
        raise InputError(f"{pattern}: use either {{SPAN}} or all of {{YYYY}}, {{MM}} and {{DD}}")
    if "VERSION" in tokens and not dated and "SPAN" not in tokens:
        raise InputError(f"{pattern}: {{VERSION}} needs {{SPAN}} or a date")


def _to_regex(pattern: str) -> str:
    """Converts tokens to named groups; `*` and `?` still match within one folder."""
    parts, at = [], 0
    for match in _TOKEN.finditer(pattern):
        name, width = match.groups()
        width = width or _DATE_WIDTHS.get(name)
        digits = f"\\d{{{width}}}" if width else "\\d+"
        parts += [_glob_to_regex(pattern[at : match.start()]), f"(?P<{name}>{digits})"]
        at = match.end()
    return "".join([*parts, _glob_to_regex(pattern[at:])])


def _glob_to_regex(text: str) -> str:
    return re.escape(text).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
