"""Validates cron expressions: the dialect that means the same everywhere a schedule can go.

Those places are crontab, systemd's timers, Kubeflow, Vertex, and croniter for the next times. Their
parsers differ on everything else, or accept it and start at other times.
"""

import re
from dataclasses import dataclass
from typing import Final

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun",
                  "jul", "aug", "sep", "oct", "nov", "dec")  # fmt: skip
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST_MONTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Most days of each month."""
_SHORTHANDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_ITEM: Final = re.compile(
    r"(?:(?P<star>\*)|(?P<first>[0-9]+|[a-z]+)(?:-(?P<last>[0-9]+|[a-z]+))?)(?:/(?P<step>[0-9]+))?",
    re.ASCII,
)


@dataclass(frozen=True)
class _Kind:
    """A field of an expression.

    Attributes:
        name: its name for users.
        low: smallest value.
        high: largest value.
        words: names of the values from `low` on.
    """

    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()


_MINUTE = _Kind("minute", 0, 59)
_HOUR = _Kind("hour", 0, 23)
_DAY = _Kind("day of month", 1, 31)
_MONTH = _Kind("month", 1, 12, _MONTHS)
# 7 is Sunday in some dialects only; it is written as 0.
_WEEKDAY = _Kind("day of week", 0, 7, _DAYS)
_KINDS: Final = (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)


@dataclass(frozen=True)
class _Field:
    """A parsed field.

    Attributes:
        text: the field in numbers; `*` if every value matches.
        values: the matching values; 0 to 6 for days of the week.
        is_any: whether it was written as `*` and not, for instance, as 1-31.
        has_star: whether it steps through all values (`*/2`).
    """

    text: str
    values: frozenset[int]
    is_any: bool
    has_star: bool


def normalise_cron(expression: str) -> str:
    """Validates a cron expression and writes it in numbers.

    Args:
        expression: Minute, hour, day of month, month and day of week. Each is `*`, `*/2`, a value,
            a range such as `1-5` or `0-30/10`, or a list of these; months and days of the week may
            be names such as `jan` and `mon`, and Sunday may be 7.

    Returns:
        The expression without names and without 7, which starts at the same times everywhere.

    Raises:
        ValueError: The expression is invalid, has another meaning somewhere, or never occurs; the
            message is one line that says what to write.
    """
    texts = expression.lower().split()
    if len(texts) != len(_KINDS):
        raise ValueError(_count_reason(texts))
    minute, hour, day, month, weekday = (
        _parse_field(text, kind) for text, kind in zip(texts, _KINDS, strict=True)
    )
    days, weekdays = day.text, weekday.text
    if not (day.is_any or weekday.is_any):
        if day.has_star or weekday.has_star:
            starred = _DAY if day.has_star else _WEEKDAY
            raise ValueError(
                f"{starred.name}: together with the other field of days, `*/` requires both to "
                "match in some places and one of them in others; write the days as a list"
            )
        if "*" in (days, weekdays):
            # Such as 0-6. A day matches if either field does, so every day matches.
            days = weekdays = "*"
    if days != "*" and min(day.values) > max(_LONGEST_MONTHS[one - 1] for one in month.values):
        raise ValueError(
            f"day of month {days} never occurs in month {month.text}; write a day that exists, or "
            "`*` for the month"
        )
    return " ".join((minute.text, hour.text, days, month.text, weekdays))


def _count_reason(texts: list[str]) -> str:
    reason = (
        "expected five fields: minute, hour, day of month, month, day of week, such as `0 3 * * *`"
    )
    if texts and texts[0] in _SHORTHANDS:
        return f"{reason}; write `{_SHORTHANDS[texts[0]]}` for {texts[0]}"
    if texts and texts[0].startswith("@"):
        return f"{reason}; {texts[0]} names no time of day"
    if len(texts) > len(_KINDS):
        return f"{reason}; leave out fields for seconds, years and the time zone"
    return reason


def _parse_field(text: str, kind: _Kind) -> _Field:
    parts: list[str] = []
    values: set[int] = set()
    has_star = False
    for item in text.split(","):
        part, found = _parse_item(item, kind)
        parts.append(part)
        values |= found
        has_star |= part.startswith("*/")
    count = 7 if kind is _WEEKDAY else kind.high - kind.low + 1
    return _Field(
        text="*" if len(values) == count else ",".join(parts),
        values=frozenset(values),
        is_any="*" in parts,
        has_star=has_star,
    )


def _parse_item(item: str, kind: _Kind) -> tuple[str, set[int]]:
    """Returns an item of a list in numbers, and its values."""
    match = _ITEM.fullmatch(item)
    if match is None:
        raise ValueError(
            f"{kind.name}: `{item}` is not understood everywhere; write `*`, `*/2`, values, ranges "
            "such as 1-5, or a list of these"
        )
    top = 6 if kind is _WEEKDAY else kind.high
    step = int(match["step"] or 1)
    if match["star"]:
        first, last = kind.low, top
    else:
        first = _value(match["first"], kind)
        last = _value(match["last"], kind) if match["last"] else first
        if match["step"] and not match["last"]:
            raise ValueError(
                f"{kind.name}: `{item}` starts at other times in other places; write "
                f"{first}-{top}/{step}"
            )
    if first > last:
        raise ValueError(
            f"{kind.name}: the range {item} ends before it begins; write "
            f"{_range(first, top)},{_range(kind.low, last)}"
        )
    if step == 0 or step > max(1, last - first):
        raise ValueError(
            f"{kind.name}: the step of `{item}` must be from 1 to {max(1, last - first)}; for a "
            f"single value write {first}"
        )
    found = range(first, last + 1, step)
    if kind is _WEEKDAY and last > top:
        wrapped = sorted({value % 7 for value in found})
        return ",".join(map(str, wrapped)), set(wrapped)
    base = "*" if match["star"] else _range(first, last)
    return base if step == 1 else f"{base}/{step}", set(found)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _value(text: str, kind: _Kind) -> int:
    if not text[0].isdigit():
        if text not in kind.words:
            known = f"numbers or names such as {kind.words[1]}" if kind.words else "numbers"
            raise ValueError(f"{kind.name}: `{text}` is not understood everywhere; write {known}")
        return kind.words.index(text) + kind.low
    value = int(text) if len(text) < 5 else kind.high + 1
    if not kind.low <= value <= kind.high:
        raise ValueError(f"{kind.name}: {text} is not between {kind.low} and {kind.high}")
    return value
