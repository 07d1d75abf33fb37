"""Signals end a command with one line and the exit code of the signal, also inside of Beam."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.digits import write_digits
from tests.limits import HANG_SECS
from tests.pipeline.test_cli import ROOT, vaeline

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

COMMAND = """
import signal, sys, time
import click
from components.bulk_inference.running.interruption import workers_end_with_us
from pipeline.cli.command import common
from trainer.quick_imports import quick_imports

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

def wait(element):
    print("at work", flush=True)
    time.sleep(7200)

@click.command()
@common
def main(terminal):
    if KIND == "sleep":
        wait(None)
    elif KIND == "wrapped":
        try:
            wait(None)
        except KeyboardInterrupt as error:
            raise RuntimeError("KeyboardInterrupt") from error
    elif KIND == "workers":
        with workers_end_with_us():
            wait(None)
    else:
        with quick_imports():
            import apache_beam as beam

        options = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]
        with beam.Pipeline(argv=options) as pipeline:
            _ = pipeline | beam.Create([1]) | beam.Map(wait)
    return 0

main()
"""


def ended(process: subprocess.Popen[str], sent: signal.Signals) -> tuple[int, list[str]]:
    """Exit code and lines of a process after a signal."""
    process.send_signal(sent)
    output, _ = process.communicate(timeout=HANG_SECS)
    return process.returncode, output.splitlines()


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (signal.SIGINT, "beam"),
        (signal.SIGTERM, "beam"),
        (signal.SIGHUP, "sleep"),
        (signal.SIGTERM, "wrapped"),
        (signal.SIGINT, "workers"),
        (signal.SIGTERM, "workers"),
    ],
)
def test_a_signal_ends_a_command(sent: signal.Signals, kind: str) -> None:
    script = COMMAND.replace("KIND", repr(kind))
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "at work\n":
                break
        code, lines = ended(process, sent)
    assert code == SIGNALS[sent]
    what = "interrupted" if sent is signal.SIGINT else f"stopped by {sent.name}"
    assert lines[-1] == f"{what}; what is finished stays, start again to go on"
    assert not any("Traceback" in line for line in lines)


@pytest.mark.slow
def test_a_stopped_run_is_no_failure(tmp_path: Path) -> None:
    """SIGTERM inside a Beam step: one line, and the run is listed as stopped."""
    root = tmp_path / "root"
    write_digits(root / "archives")
    command = ["run", "--config", "digits", "--root", str(root)]
    log = root / "logs"
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "AnomalyGate" in line or "anomal" in line:
                break
        while not any("Transform is running" in path.read_text() for path in log.iterdir()):
            assert process.poll() is None
        code, lines = ended(process, signal.SIGTERM)
    assert code == 143, lines
    assert "stopped by SIGTERM; what is finished stays, start again to go on" in lines
    (listed,) = json.loads(vaeline("runs", "list", "--root", str(root), "--json").stdout)["runs"]
    assert listed["state"] == "stopped"
