"""Signals end a command with one line and the exit code of the signal, also inside of Beam."""

import json
import signal
import time
from pathlib import Path

import pytest

from pipeline.digits import write_digits
from tests.forked import Forked, vaeline

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


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
def test_a_signal_ends_a_command(sent: signal.Signals, kind: str, tmp_path: Path) -> None:
    process = Forked(
        "tests.pipeline.waiting_command",
        kind,
        output=tmp_path / "output.txt",
        errors=tmp_path / "errors.txt",
    )
    process.wait_for("at work")
    process.send(sent)
    code, lines = process.wait(), process.text.splitlines()
    assert code == SIGNALS[sent]
    what = "interrupted" if sent is signal.SIGINT else f"stopped by {sent.name}"
    assert lines[-1] == f"{what}; what is finished stays, start again to go on"
    assert not any("Traceback" in line for line in lines)


@pytest.mark.slow
def test_a_stopped_run_is_no_failure(tmp_path: Path) -> None:
    """SIGTERM inside a Beam step: one line, and the run is listed as stopped."""
    root = tmp_path / "root"
    write_digits(root / "archives")
    command = ("run", "--config", "digits", "--root", str(root))
    process = Forked("pipeline.cli", *command, output=tmp_path / "output.txt")
    process.wait_for("anomal")
    while not any("Transform is running" in path.read_text() for path in (root / "logs").iterdir()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send(signal.SIGTERM)
    code, lines = process.wait(), process.text.splitlines()
    assert code == 143, lines
    assert "stopped by SIGTERM; what is finished stays, start again to go on" in lines
    (listed,) = json.loads(vaeline("runs", "list", "--root", str(root), "--json").stdout)["runs"]
    assert listed["state"] == "stopped"
