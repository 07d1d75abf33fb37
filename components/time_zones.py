"""Finds time zones for ML Metadata on a system that has none; `tfx_api.py` calls it."""

import importlib.resources
import os
from pathlib import Path
from typing import Final

_SYSTEM: Final = "/usr/share/zoneinfo"
_ASKED: Final = "America/Los_Angeles"
"""The zone that ML Metadata's parser of queries loads, whatever the query."""


def provide_time_zones() -> None:
    """Points `TZDIR` to the package `tzdata` where the system lacks its files.

    Minimal installations do, such as Ubuntu 22.04's; the ML Metadata of TFX 1.16 then aborts the
    process at the first query with a filter, without a message; that of TFX 1.21 has no such
    queries. Child processes inherit the variable.
    """
    if not Path(os.environ.get("TZDIR") or _SYSTEM, _ASKED).is_file():
        os.environ["TZDIR"] = str(importlib.resources.files("tzdata") / "zoneinfo")
