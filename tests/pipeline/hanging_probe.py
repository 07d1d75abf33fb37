"""A process in place of ServingCheck's own; its model is a folder, whose files say what it does."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from components.serving_check.report import CheckReport, Stage
from tests.limits import HANG_SECS


def pid_file(folder: Path) -> Path:
    """The file in which the process leaves its id."""
    return folder / "probe.pid"


def finish_file(folder: Path) -> Path:
    """The file that lets the process refuse its model at once."""
    return folder / "finish"


def signal_file(folder: Path) -> Path:
    """The file with the number of the signal by which the process ends."""
    return folder / "signal"


def main(folder: Path, report: Path) -> None:
    """Refuses the model, dies, or hangs."""
    pid_file(folder).write_text(str(os.getpid()), encoding="utf-8")
    if finish_file(folder).exists():
        report.write_text(CheckReport([Stage("fake", "refused")]).to_json(), encoding="utf-8")
    elif signal_file(folder).exists():
        number = signal.Signals(int(signal_file(folder).read_text(encoding="utf-8")))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    else:
        time.sleep(HANG_SECS)


if __name__ == "__main__":
    model, _, path = json.loads(sys.stdin.readline())
    main(Path(model), Path(path))
