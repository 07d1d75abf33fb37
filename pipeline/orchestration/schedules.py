"""Defines a schedule as the clients of Kubeflow and Vertex report it.

`timers.py` writes the schedules of this machine.
"""

import datetime
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Schedule:
    """A schedule on a platform.

    Attributes:
        id: the platform's id of the schedule.
        name: the pipeline's name.
        cron: cron expression on the platform.
        state: `active`, `paused` or `ended`.
        next_run: time of the next run in the platform's format; empty if it reports none.
    """

    id: str
    name: str
    cron: str
    state: str
    next_run: str = ""

    def as_dict(self) -> dict[str, str]:
        """Returns the schedule as JSON-compatible values."""
        return asdict(self)


def timestamp(time: datetime.datetime | None) -> str | None:
    """Formats a time as RFC 3339 in UTC, as both platforms require."""
    if time is None:
        return None
    return time.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
