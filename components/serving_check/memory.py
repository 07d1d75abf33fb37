"""Measures the memory of the process in which ServingCheck loads a model."""

import re
from pathlib import Path


def peak_memory_mib() -> float:
    """Returns the largest resident memory of this process so far.

    `getrusage` does not tell: in a process that another one has started, its maximum begins with
    the memory of the other one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise OSError("/proc/self/status: VmHWM is missing")
    return int(found[1]) / 1024
