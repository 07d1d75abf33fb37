"""What reaches a person and what goes to the log."""

import json
import logging
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pipeline.console import LogFileError, Terminal, captured_output, duration, fail, logged
from trainer.optimization.preemption import PreemptedError

ROOT = Path(__file__).resolve().parents[2]


def test_output_of_every_layer_is_captured(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    log = tmp_path / "logs" / "run.log"
    with captured_output(log):
        print("from print", flush=True)
        os.write(2, b"from C++\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        logging.getLogger("anything").info("from logging")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("from warnings", stacklevel=1)
    print("after")
    captured = capfd.readouterr()
    assert captured.out == "after\n"
    assert captured.err == ""
    text = log.read_text(encoding="utf-8")
    for source in ("print", "C++", "a child", "logging", "warnings"):
        assert f"from {source}" in text


def test_a_log_on_a_full_disk_does_not_hide_the_error() -> None:
    def command() -> None:
        with captured_output(Path("/dev/full")):
            print("noise", end="")
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        command()


def test_a_terminal_speaks_while_output_is_captured(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    terminal = Terminal()
    with captured_output(tmp_path / "run.log"):
        terminal.say("progress [bold]not markup[/bold]")
        print("noise")
    assert capfd.readouterr().out == "progress [bold]not markup[/bold]\n"


def test_a_name_gives_the_terminal_no_commands(capfd: pytest.CaptureFixture) -> None:
    terminal = Terminal()
    terminal.say("near: a\x1b[31m.png\x9b2J")
    terminal.table("rows", [("b\x1b[2J.png", "cat")])
    shown = capfd.readouterr().out
    assert "near: a\\x1b[31m.png\\x9b2J" in shown
    assert "b\\x1b[2J.png" in shown
    assert "\x1b" not in shown


def test_json_is_the_last_line_of_stdout_and_all_of_it(capfd: pytest.CaptureFixture) -> None:
    terminal = Terminal(as_json=True)
    terminal.say("progress")
    terminal.table("title", [("a", "b")])
    terminal.result({"accuracy": 0.5, "path": Path("/x")})
    captured = capfd.readouterr()
    assert json.loads(captured.out) == {"accuracy": 0.5, "path": "/x"}
    assert "progress" in captured.err


def test_json_has_null_for_numbers_that_are_not_finite(capfd: pytest.CaptureFixture) -> None:
    values = {"elbo": math.nan, "bounds": (-math.inf, 1.0), "rows": [{"top": math.inf}], "n": 3}
    Terminal(as_json=True).result(values)
    line = capfd.readouterr().out
    found = json.loads(line, parse_constant=lambda constant: pytest.fail(constant))
    assert found == {"elbo": None, "bounds": [None, 1.0], "rows": [{"top": None}], "n": 3}


def test_an_error_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with pytest.raises(KeyError) as caught, logged(Terminal(), log):
        raise KeyError("lost")
    assert f"full log: {log}" in caught.value.__notes__
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_logging_is_as_before_after_capture(tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level
    with captured_output(tmp_path / "run.log"):
        pass
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before


def test_a_log_that_cannot_be_written_is_one_line() -> None:
    with (
        pytest.raises(LogFileError, match=r"no log can be written there: .*--logs or --root"),
        captured_output(Path("/proc/logs/run.log")),
    ):
        raise AssertionError


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (8.26, "8.3 s"), (125, "2 min 05 s"), (3_720, "1 h 02 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_preempted_run_asks_to_be_started_again(capfd: pytest.CaptureFixture) -> None:
    code = fail(Terminal(), PreemptedError("stopped by SIGTERM after step 7; the state is saved"))
    assert code == 75
    assert "error: stopped by SIGTERM after step 7" in capfd.readouterr().out
