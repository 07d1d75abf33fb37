"""A week of `vaeline retrain` on the digits, and a run that is killed at each of its steps.

    python -m benchmarks.retraining [--kills] [--json]

Every day one process, as cron starts it. Monday brings images, Tuesday none, Wednesday too few;
on Thursday a bulk job reports drift and the run is killed while it trains, then started again;
Friday brings none; on Saturday a third of all labels is wrong; Sunday is as Saturday. `--kills`
kills another run, with SIGKILL, at each of its steps in turn (three minutes more).
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import print_record
from pipeline.digits import write_digits
from pipeline.runs.step import STEP_TITLES
from pipeline.runs.store import read_runs

_TARGETS = {
    "idle_day_seconds": 5.0,
    "steps_done_twice": 0.0,
    "days_as_expected": 7.0,
    "killed_steps_done_twice": 0.0,
    "killed_run_as_expected": 1.0,
}
_DAYS = tuple(f"2026-11-{day}" for day in range(16, 23))
_EXIT_REFUSED = 3
_STEPS = (
    "ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "AnomalyGate", "Transform",
    "Trainer", "ServingCheck", "baseline_model", "Evaluator", "ModelGate",
)  # fmt: skip
"""All but the last: after the push nothing is left to be done again."""


@dataclass
class Week:
    """One root folder and what its days came to.

    Attributes:
        folder: for archives, runs and tables.
        seconds: wall time by day.
        wrong: days that did not come to what was expected.
    """

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """Folder of the runs."""
        return self.folder / "root"

    def command(self, *extra: str) -> list[str]:
        """What cron would start."""
        settings = {
            "input.paths": f"{self.folder}/days/{{YYYY}}-{{MM}}-{{DD}}.zip",
            "input.spans.latest": "all",
            "trainer.epochs": "12",
            "trainer.evaluate_every_epochs": "4",
            "evaluation.min_accuracy": "0.85",
            "evaluation.max_accuracy_drop": "0.05",
            "retrain.min_new_spans": "2",
            "retrain.drift_report": f"{self.folder}/labelled",
        }
        overrides = [
            part for key, value in settings.items() for part in ("--set", f"{key}={value}")
        ]
        return [
            sys.executable, "-m", "pipeline.cli", "retrain", "--config", "digits",
            "--root", str(self.root), *overrides, *extra,
        ]  # fmt: skip

    def day(self, name: str, *, code: int, trained: bool, because: str) -> None:
        """Lives through a day and compares with what is expected."""
        began = time.monotonic()
        done = subprocess.run(
            self.command("--json"), capture_output=True, text=True, env=_environment(), check=False
        )
        self.seconds[name] = time.monotonic() - began
        result = json.loads(done.stdout.splitlines()[-1])
        is_right = (done.returncode, result.get("trained")) == (code, trained)
        if not (is_right and because in result.get("reason", "")):
            self.wrong.append(f"{name}: exit {done.returncode}, {result}")


def main() -> None:
    """Lives through the week and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", action="store_true", help="also kill a run at each step")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        week = Week(Path(name))
        figures = live(week)
        wrong = week.wrong
        if arguments.kills:
            killed = Week(Path(name) / "kills")
            figures |= kill_each_step(killed)
            wrong += killed.wrong
    if not arguments.json:
        for line in wrong:
            print(f"not as expected: {line}")
        for key, value in figures.items():
            print(f"{key:40} {value:10.2f}")
    print_record(figures, {name: _TARGETS[name] for name in _TARGETS if name in figures})


def live(week: Week) -> dict[str, float]:
    """Lives through the week."""
    members = _digits(week.folder)
    _write_day(week.folder, 0, members[:600])
    week.day("monday", code=0, trained=True, because="no blessed model yet")
    week.day("tuesday", code=0, trained=False, because="trained on these images and was blessed")
    _write_day(week.folder, 2, members[600:800])
    week.day("wednesday", code=0, trained=False, because="retrain.min_new_spans asks for 2")

    _report_drift(week, members[800:])
    _write_day(week.folder, 3, members[800:1000])
    _kill_after(week.command(), STEP_TITLES["Transform"], delay=1.0)
    week.day("thursday", code=0, trained=True, because="was interrupted and resumes")
    week.day("friday", code=0, trained=False, because="trained on these images and was blessed")

    _write_day(week.folder, 5, _mislabelled(members[1000:]))
    # Two spans are asked for where nothing drifts.
    _write_day(week.folder, 4, _mislabelled(members[1000:1010]))
    week.day("saturday", code=_EXIT_REFUSED, trained=True, because="2 spans are new")
    week.day("sunday", code=0, trained=False, because="trained on these images and was refused")
    pushed = sum(path.name.isdigit() for path in (week.root / "pushed").iterdir())
    if pushed != 2:
        week.wrong.append(f"{pushed} models are pushed, not 2")
    idle = [week.seconds[day] for day in ("tuesday", "wednesday", "friday", "sunday")]
    return {
        **{f"{day}_seconds": seconds for day, seconds in week.seconds.items()},
        "idle_day_seconds": max(idle),
        "days_as_expected": 7.0 - len(week.wrong),
        "steps_done_twice": float(_done_twice(week.root)),
        "pushed_models": float(pushed),
    }


def kill_each_step(week: Week) -> dict[str, float]:
    """Kills a run at each step, starts it again each time, and lets it end."""
    _write_day(week.folder, 0, _digits(week.folder)[:600])
    killed = []
    for step in _STEPS:
        # Gate and push take a tenth of a second: the last signal may come when all is done.
        delay = 0.0 if step in ("Evaluator", "ModelGate") else 0.2
        killed.append(_kill_after(week.command(), STEP_TITLES[step], delay=delay))
    is_open = bool(killed[-1])
    reason = "was interrupted and resumes" if is_open else "and was blessed"
    week.day("the last start", code=0, trained=is_open, because=reason)
    pushed = sum(path.name.isdigit() for path in (week.root / "pushed").iterdir())
    if pushed != 1:
        week.wrong.append(f"{pushed} models are pushed, not 1")
    return {
        "kills": float(sum(killed)),
        "killed_steps_done_twice": float(_done_twice(week.root)),
        "killed_run_as_expected": float(not week.wrong),
    }


def _done_twice(root: Path) -> int:
    """Counts steps whose finished work was done again for the same inputs and settings."""
    done: Counter[str] = Counter()
    for run in read_runs(root):
        for step in run.steps.values():
            if step.state == "done" and step.outputs:
                key = json.dumps([step.name, step.input_ids, step.settings], sort_keys=True)
                done[key] += 1
    return sum(count - 1 for count in done.values())


def _kill_after(command: Sequence[str], line: str, *, delay: float) -> int:
    """Starts a run and kills it soon after the step of that line ended; 1 if it was killed."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment()
    )
    with process:
        for printed in process.stdout or ():
            # A line has the time, the step's title and what is to be said of it.
            if f"  {line}" in printed:
                time.sleep(delay)
                break
        process.send_signal(signal.SIGKILL)
        return int(process.wait() == -signal.SIGKILL)


def _report_drift(week: Week, members: list[tuple[str, bytes]]) -> None:
    """Labels negatives of digits with the pushed model: a bulk job that finds drift."""
    import cv2

    archive = week.folder / "negatives.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in members:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
            file.writestr(Path(name).name, cv2.imencode(".png", 255 - image)[1].tobytes())
    subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "classify", str(archive),
         "--model", str(week.root / "pushed"), "--output", str(week.folder / "labelled"),
         "--logs", str(week.folder)],
        check=True, capture_output=True, env=_environment(),
    )  # fmt: skip


def _digits(folder: Path) -> list[tuple[str, bytes]]:
    """Gives the members of the digits' archive in a fixed, mixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(write_digits(folder / "archives").labelled) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    random.Random(7).shuffle(members)
    return members


def _mislabelled(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    moved = []
    for name, content in members:
        _, label, file = name.split("/")
        moved.append((f"digits/{(int(label) + 3) % 10}/{file}", content))
    return moved


def _write_day(folder: Path, day: int, members: list[tuple[str, bytes]]) -> None:
    path = folder / "days" / f"{_DAYS[day]}.zip"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)


def _environment() -> dict[str, Any]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}


if __name__ == "__main__":
    main()
