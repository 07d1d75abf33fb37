"""Names the logger whose lines users see during a run, and formats remaining time.

Project code logs one line at a time; the local runner shows the latest line next to the step.
"""

from typing import Final

PROGRESS_LOGGER: Final = "vaeline.progress"


def clock(secs: float) -> str:
    """Formats a remaining time: `3:05`, `2:00:00`."""
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
