"""What every benchmark prints last: one JSON object with figures, targets and hardware."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from trainer.cores import usable_cores
from trainer.installed import library_versions


def hardware() -> dict[str, object]:
    """Describes the machine and the libraries that made a figure."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": usable_cores(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        **library_versions(),
    }


def print_record(figures: Mapping[str, float], targets: Mapping[str, float]) -> None:
    """Prints the record as the last line."""
    rounded = {name: round(value, 4) for name, value in figures.items()}
    print(json.dumps({"figures": rounded, "targets": dict(targets), "hardware": hardware()}))
