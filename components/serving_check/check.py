"""Runs the check in a separate process, and against a model server if there is one.

The executor calls `check_model`; this module does not depend on TFX.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from components.serving_check.config import ServingCheckConfig
from components.serving_check.report import CheckReport, Stage
from components.serving_check.server import check_server
from trainer.errors import UserError

STOP_CHECKS: Final = threading.Event()
"""Set by the runner of the pipeline when it is stopped: a check in another thread ends then."""

_AHEAD: Final[list["subprocess.Popen[str]"]] = []
"""The process that waits for a model, if there is one."""

_PROBE = "components.serving_check.process"
_PROCESS = "fresh process"
_POLL_SECS = 0.2
# Sent to every process of a service or a container that is stopped; no model causes them.
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CheckStoppedError(UserError, RuntimeError):
    """Reports a check that was ended before it had a result."""


def check_model(model: str, config: ServingCheckConfig) -> CheckReport:
    """Checks an exported model.

    Args:
        model: Folder of the SavedModel.
        config: The section.

    Returns:
        The report. A model that crashes or hangs the process is a failed stage.

    Raises:
        CheckStoppedError: The check was stopped, which says nothing about the model.
    """
    report = _run_probe(model, config)
    if report.blessed:
        report.stages.extend(check_server(model, config))
    _raise_if(STOP_CHECKS.is_set())
    return report


def start_ahead() -> None:
    """Starts the process of the next check, which imports TensorFlow while another step runs."""
    if not _AHEAD:
        _AHEAD.append(_start())


def end_ahead() -> None:
    """Ends a process that was started ahead and not used."""
    while _AHEAD:
        with _AHEAD.pop() as process:
            process.kill()


def _start() -> "subprocess.Popen[str]":
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    return subprocess.Popen(
        [sys.executable, "-m", _PROBE],
        env={
            # Optimising graphs frees millions of small objects, which glibc would merge each time.
            "GLIBC_TUNABLES": "glibc.malloc.mxfast=0",
            **os.environ,
            "PYTHONPATH": path,
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C in a terminal reaches this process, which decides when to end the other.
        start_new_session=True,
    )


def _started() -> "subprocess.Popen[str]":
    """Returns the process that was started ahead, if it still runs, or else a new one."""
    if _AHEAD and _AHEAD[0].poll() is None:
        return _AHEAD.pop()
    end_ahead()
    return _start()


def _run_probe(model: str, config: ServingCheckConfig) -> CheckReport:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "report.json"
        request = json.dumps([model, config.model_dump(mode="json"), str(answer)])
        with _started() as process:
            try:
                said = _answered(process, request, time.monotonic() + config.timeout_secs)
            except subprocess.TimeoutExpired:
                fault = f"no answer in serving_check.timeout_secs = {config.timeout_secs:g}"
                return CheckReport([Stage(_PROCESS, fault)])
            finally:
                process.kill()
        if process.returncode == 0 and answer.exists():
            return CheckReport.from_json(answer.read_text(encoding="utf-8"))
        _raise_if(-process.returncode in _STOPPING)
        if process.returncode < 0:
            fault = f"killed by signal {-process.returncode}: the model crashes what loads it"
        else:
            lines = said.strip().splitlines() or ["it said nothing"]
            fault = f"ended with {process.returncode}: {lines[-1][:300]}"
        return CheckReport([Stage(_PROCESS, fault)])


def _answered(process: "subprocess.Popen[str]", request: str, deadline: float) -> str:
    """Sends a line to a process, waits for its end and returns its standard error."""
    with contextlib.suppress(BrokenPipeError):  # It has ended; its standard error says why.
        print(request, file=process.stdin, flush=True)
    while True:
        _raise_if(STOP_CHECKS.is_set())
        try:
            return process.communicate(timeout=_POLL_SECS)[1]
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise


def _raise_if(stopped: bool) -> None:
    if stopped:
        raise CheckStoppedError(
            "ServingCheck was stopped before it had a result; start the run again"
        )
