"""Cron expressions: one dialect for all places, and times that a plain search finds as well."""

import calendar
import datetime
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.orchestration.config import ScheduleConfig
from pipeline.orchestration.cron import normalise_cron
from pipeline.orchestration.timers import next_starts

NOW = datetime.datetime(2026, 11, 26, 12, 34, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("written", "expression"),
    [
        ("0 3 * * *", "0 3 * * *"),
        (" 0  3 * * * ", "0 3 * * *"),
        ("0 3 * JAN-mar Mon", "0 3 * 1-3 1"),
        ("* * * * 7", "* * * * 0"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * 0-7", "0 0 * * *"),
        ("*/15 * * * *", "*/15 * * * *"),
        ("0-59 * * * *", "* * * * *"),
        ("0 0 29 2 *", "0 0 29 2 *"),
        ("0 0 1 * 1", "0 0 1 * 1"),
    ],
)
def test_what_all_places_understand(written: str, expression: str) -> None:
    assert ScheduleConfig(cron=written).cron == expression


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("0 0 * * 5#2", "day of week: `5#2` is not understood everywhere"),
        ("0 0 * * L5", "day of week: `l5` is not understood"),
        ("0 0 * * 5L", "day of week: `5l` is not understood"),
        ("0 0 L * *", "day of month: `l` is not understood"),
        ("0 0 15W * *", "day of month: `15w` is not understood"),
        ("0 0 ? * 1", "day of month: `\\?` is not understood"),
        ("0 0 31 2 *", "never occurs in month 2"),
        ("0 0 31 4,6 *", "never occurs"),
        ("@daily", "write `0 0 \\* \\* \\*` for @daily"),
        ("@reboot", "@reboot names no time of day"),
        ("0 0 3 * * *", "leave out fields for seconds"),
        ("0 3 * *", "expected five fields"),
        ("", "expected five fields"),
        ("60 * * * *", "minute: 60 is not between 0 and 59"),
        ("0 24 * * *", "hour: 24"),
        ("5/15 * * * *", "write 5-59/15"),
        ("0 22-2 * * *", "write 22-23,0-2"),
        ("*/0 * * * *", "the step of `\\*/0`"),
        ("0 0 */2 * 1", "write the days as a list"),
        ("0 0 */2 * 0-6", "write the days as a list"),
        ("-1 * * * *", "minute: `-1` is not understood"),
        ("0 0 * * 8", "day of week: 8 is not between 0 and 7"),
        ("H * * * *", "minute: `h` is not understood"),
        ("0 0 1,,2 * *", "day of month: `` is not understood"),
    ],
)
def test_what_means_something_else_elsewhere_is_refused(written: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        normalise_cron(written)
    assert "\n" not in str(caught.value)


def numbers(low: int, high: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """A field, and the values that it stands for."""
    value = st.integers(low, high)
    single = value.map(lambda one: (str(one), frozenset([one])))
    span = st.tuples(value, value).map(lambda two: (min(two), max(two)))
    ranges = span.map(lambda two: (f"{two[0]}-{two[1]}", frozenset(range(two[0], two[1] + 1))))
    steps = st.integers(1, high - low).map(
        lambda step: (f"*/{step}", frozenset(range(low, high + 1, step)))
    )
    some = st.lists(single | ranges, min_size=1, max_size=3).map(
        lambda items: (
            ",".join(text for text, _ in items),
            frozenset().union(*(found for _, found in items)),
        )
    )
    return st.just(("*", frozenset(range(low, high + 1)))) | steps | some


@settings(max_examples=150, deadline=None)
@given(st.tuples(numbers(0, 59), numbers(0, 23), numbers(1, 31), numbers(1, 12), numbers(0, 6)))
def test_next_times_are_those_of_a_plain_search(fields: list[tuple[str, frozenset[int]]]) -> None:
    minutes, hours, days, months, weekdays = (values for _, values in fields)
    try:
        schedule = ScheduleConfig(cron=" ".join(text for text, _ in fields))
    except ValueError:
        return
    # `*/1` is a star as well.
    both = not (fields[2][0].startswith("*") or fields[4][0].startswith("*"))

    def matches(day: datetime.date) -> bool:
        # In cron Sunday is 0; if both fields are given, one of them is enough.
        by_month, by_week = day.day in days, (day.weekday() + 1) % 7 in weekdays
        return day.month in months and (by_month or by_week if both else by_month and by_week)

    def search() -> "list[datetime.datetime]":
        found = []
        for offset in range(366 * 9):
            day = NOW.date() + datetime.timedelta(days=offset)
            if not matches(day):
                continue
            for hour in sorted(hours):
                for minute in sorted(minutes):
                    time = datetime.datetime(
                        day.year, day.month, day.day, hour, minute, tzinfo=datetime.UTC
                    )
                    if time > NOW:
                        found.append(time)
                    if len(found) == 3:
                        return found
        return found

    assert next_starts(schedule, 3, now=NOW) == list(islice(search(), 3))


def test_the_29th_of_february_comes_every_four_years() -> None:
    starts = next_starts(ScheduleConfig(cron="0 0 29 2 *"), 2, now=NOW)
    assert [start.year for start in starts] == [2028, 2032]
    assert all(calendar.isleap(start.year) for start in starts)
