"""A run that was killed ends with the weights of one that was not."""

import json
import pathlib
import random
import signal

import numpy as np
import pytest

from tests.forked import Forked
from tests.trainer import tiny
from trainer.optimization.checkpoints import Checkpoints, pack_arrays
from trainer.optimization.preemption import PREEMPTED_EXIT_CODE


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    return folder


def _newest(workdir: pathlib.Path) -> int:
    """The step of the newest checkpoint."""
    names = [path.stem for path in (workdir / "checkpoints").glob("step-*.json")]
    return max(int(name.removeprefix("step-")) for name in names)


def _start(workdir: pathlib.Path) -> Forked:
    output = workdir / f"printed-{len(list(workdir.glob('printed-*')))}.txt"
    return Forked("tests.trainer.tiny", str(workdir), str(workdir / "out.npy"), output=output)


def _finish(workdir: pathlib.Path) -> tuple[np.ndarray, list[dict]]:
    """Runs to the end in a process like the others: with as many threads, so with equal bits."""
    process = _start(workdir)
    assert process.wait() == 0, process.text[-2000:]
    return np.load(workdir / "out.npy"), json.loads((workdir / "history.json").read_text())


def _signal_at(process: Forked, step: int, number: int) -> int:
    """Sends a signal when the process reports the step; its exit code."""
    for line in process.lines():
        if line.isdigit() and int(line) >= step:
            process.send(number)
            break
    return process.wait()


@pytest.mark.slow
def test_a_run_that_was_killed_and_stopped_ends_with_identical_weights(
    tmp_path: pathlib.Path,
) -> None:
    """SIGTERM saves and has an exit code of its own."""
    weights, history = _finish(_made(tmp_path / "whole"))
    workdir = _made(tmp_path / "stopped")
    # Of 40 steps: SIGTERM has to arrive before the end, however late its sender reads the step.
    killed, stopped = random.randint(2, 18), random.randint(20, 26)
    assert _signal_at(_start(workdir), killed, signal.SIGKILL) == -signal.SIGKILL
    assert _signal_at(_start(workdir), stopped, signal.SIGTERM) == PREEMPTED_EXIT_CODE
    assert _newest(workdir) >= stopped
    found, same_history = _finish(workdir)
    where = f"killed at {killed}, stopped at {stopped}"
    np.testing.assert_array_equal(found, weights, err_msg=where)
    assert same_history == history, where


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), identity="run", keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, [np.full(4, step, np.float32)], {"n": step})
    newest = tmp_path / "step-000000003.npz"
    newest.write_bytes(newest.read_bytes()[:-20])
    (tmp_path / "step-000000004.json").write_text('{"step": 4, "ident')
    restored = checkpoints.restore()
    assert restored is not None
    step, arrays, notes = restored
    assert (step, notes) == (2, {"n": 2})
    np.testing.assert_array_equal(arrays[0], np.full(4, 2, np.float32))


def test_only_the_configured_number_is_kept(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), identity="run", keep=2)
    for step in range(5):
        checkpoints.save(step, [np.zeros(1)], {})
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "step-000000003.json",
        "step-000000004.json",
    ]
    assert len(list(tmp_path.iterdir())) == 4


def test_checkpoints_of_another_run_are_refused(tmp_path: pathlib.Path) -> None:
    Checkpoints(str(tmp_path), identity="one", keep=1).save(1, [np.zeros(1)], {})
    with pytest.raises(ValueError, match="a run with other data or options"):
        Checkpoints(str(tmp_path), identity="two", keep=1).restore()


def test_damaged_best_weights_are_not_used(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), identity="run", keep=1)
    checkpoints.save_best([np.arange(3.0)])
    best = checkpoints.restore_best()
    assert best is not None
    np.testing.assert_array_equal(best[0], np.arange(3.0))
    (tmp_path / "best.npz").write_bytes(pack_arrays([np.zeros(3)]) + b"0" * 64)
    assert checkpoints.restore_best() is None


def test_a_finished_run_is_not_trained_again(tmp_path: pathlib.Path) -> None:
    data = tiny.train_only()
    first = tiny.run(tmp_path, data=data)
    steps: list[int] = []
    second = tiny.run(tmp_path, data=data, progress=lambda event: steps.append(event.step))
    assert steps == []
    np.testing.assert_array_equal(tiny.flat_weights(first), tiny.flat_weights(second))
    assert json.loads((tmp_path / "history.json").read_text()) == second.history
