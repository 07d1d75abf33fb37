"""Two runs on one root: the second is told who holds it; a dead holder holds nothing."""

import getpass
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.orchestration.lock import LockedError, current_run_owner, read_run_owner, run_lock

PROJECT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from collections.abc import Iterator
from pathlib import Path
from pipeline.orchestration.lock import run_lock
with run_lock(Path(sys.argv[1]), "a pipeline run"):
    print("held", flush=True)
    time.sleep(7200)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_told_who_holds_the_root(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(LockedError) as refused, run_lock(tmp_path, "another"):
        pytest.fail("two runs hold one root")
    message = str(refused.value)
    assert f"process {holder.pid}," in message
    assert getpass.getuser() in message
    assert "a pipeline run" in message
    assert "\n" not in message
    found = current_run_owner(tmp_path)
    assert found is not None
    assert found.pid == holder.pid


def test_a_killed_holder_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert read_run_owner(tmp_path) is not None, "what it left behind lies there"
    assert current_run_owner(tmp_path) is None
    with run_lock(tmp_path, "the next"):
        mine = current_run_owner(tmp_path)
        assert mine is not None
        assert mine.pid == os.getpid()
    assert read_run_owner(tmp_path) is None


def test_a_run_that_fails_gives_the_root_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), run_lock(tmp_path, "a run"):
        raise RuntimeError
    assert current_run_owner(tmp_path) is None


def test_a_damaged_note_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".run.json").write_text("{")
    with run_lock(tmp_path, "a run"):
        assert current_run_owner(tmp_path) is not None
