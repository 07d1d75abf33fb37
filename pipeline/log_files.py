"""Names the files in which commands write what they said; commands and `vaeline gc` use it."""

import time
from pathlib import Path
from typing import Final

LOGS: Final = "logs"
"""Name of the folder of all logs, in the root of the runs."""
CRON_LOG: Final = "cron.log"
"""Name of the file in that folder to which a crontab line writes, on each machine its own."""
_PATTERN: Final = "%Y-%m-%dT%H-%M-%S.log"


def new_log_path(folder: Path) -> Path:
    """Returns a log path named after the current second."""
    return folder / LOGS / time.strftime(_PATTERN)


def log_time(path: Path) -> float | None:
    """Returns when a log was begun, seconds since 1970-01-01 UTC; None for any other file.

    Files that were fetched from a bucket or copied have other times than their names.
    """
    try:
        return time.mktime(time.strptime(path.name, _PATTERN))
    except ValueError:
        return None
