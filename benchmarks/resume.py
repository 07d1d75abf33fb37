"""Kills a training at random steps and checks that it ends with identical weights.

`python -m benchmarks.resume --kills 20`
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.image_sets import parser, record

ROOT = pathlib.Path(__file__).parents[1]
TOTAL_STEPS = 40


def start(workdir: pathlib.Path) -> subprocess.Popen:
    """Starts the tests' tiny training; it prints its steps."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.tiny", str(workdir), str(workdir / "out.npy")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def main() -> None:
    """Trains once undisturbed, once with many kills, and compares."""
    arguments = _arguments()
    draw = random.Random(arguments.seeds[0])
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder, "whole"), pathlib.Path(folder, "killed")
        whole.mkdir()
        start(whole).communicate()
        expected = np.load(whole / "out.npy")
        steps: list[int] = []
        identical: list[bool] = []
        while len(steps) < arguments.kills:
            killed.mkdir(exist_ok=True)
            process = start(killed)
            lines = draw.randint(1, 6)
            for seen, line in enumerate(process.stdout or (), start=1):
                if seen == lines:
                    # Anywhere between two reports: also while a checkpoint is written.
                    time.sleep(draw.uniform(0.0, 0.05))
                    process.send_signal(signal.SIGKILL)
                    steps.append(int(line))
                    break
            process.communicate()
            if (killed / "out.npy").exists():
                identical.append(bool(np.array_equal(np.load(killed / "out.npy"), expected)))
                killed = pathlib.Path(folder, f"killed-{len(steps)}")
        if not (killed / "out.npy").exists() and killed.exists():
            start(killed).communicate()
            identical.append(bool(np.array_equal(np.load(killed / "out.npy"), expected)))
    record(
        arguments,
        "resume",
        {"kills": len(steps), "at_steps": steps, "runs": len(identical),
         "identical": all(identical) and bool(identical)},
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--kills", type=int, default=20)
    return made.parse_args()


if __name__ == "__main__":
    main()
