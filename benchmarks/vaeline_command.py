"""Runs a `vaeline` command in a fresh process, as a user does, and watches its process tree."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.process_tree import Sample, TreeWatch


class Outcome(NamedTuple):
    """What a command printed and took.

    Attributes:
        result: the object that `--json` prints.
        seconds: wall time from the start of the process to its exit.
        samples: memory and processor time of the process tree meanwhile.
    """

    result: dict[str, Any]
    seconds: float
    samples: list[Sample]


def run_vaeline(*arguments: str, values: Mapping[str, object] | None = None) -> Outcome:
    """Runs `vaeline ARGUMENTS --json`.

    Args:
        *arguments: The command and its options.
        values: Values of the configuration by key, each for a `--set`.

    Returns:
        The outcome.

    Raises:
        SystemExit: The command failed; the message is the end of what it printed.
    """
    command = [sys.executable, "-m", "pipeline.cli", *arguments, "--json"]
    for key, value in (values or {}).items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        with TreeWatch(process.pid) as watch:
            output, _ = process.communicate()
        seconds = time.perf_counter() - begin
        if process.returncode:
            errors.seek(0)
            raise SystemExit(errors.read()[-3000:])
    return Outcome(json.loads(output), seconds, watch.samples)
