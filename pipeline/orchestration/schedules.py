"""A schedule as Kubeflow or Vertex reports it; both clients return it.

`timers.py` holds the schedules of this machine.
"""

import datetime
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Schedule:
    """A schedule on a platform.

    Attributes:
        id: what the platform calls it.
        name: the pipeline's name.
        cron: as the platform has it.
        state: `active`, `paused` or `ended`.
        next_run: time of the next run, as the platform says it; empty where it doesn't.
    """

    id: str
    name: str
    cron: str
    state: str
    next_run: str = ""

    def as_dict(self) -> dict[str, str]:
        """Returns it in a form for JSON."""
        return asdict(self)


def timestamp(time: datetime.datetime | None) -> str | None:
    """Formats a time as both platforms want it: RFC 3339, UTC."""
    if time is None:
        return None
    return time.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
