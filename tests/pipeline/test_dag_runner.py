"""The local runner: which steps run side by side, and what failures and signals leave behind."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2

from components.serving_check.check import STOP_CHECKS
from pipeline.local_runner import metadata_connection
from tests.forked import Forked
from tests.limits import HANG_SECS
from tests.pipeline import hanging_probe
from tests.pipeline.fake_steps import NAMES, check_fake_model, run_steps

ASIDE = {"check": STOP_CHECKS.set}


@pytest.fixture(autouse=True)
def _no_stop() -> Iterator[None]:
    STOP_CHECKS.clear()
    yield
    STOP_CHECKS.clear()


def states(root: Path) -> dict[str, list[str]]:
    """States of all executions in the metadata store, by step."""
    store = metadata_store.MetadataStore(metadata_connection(root))
    found: dict[str, list[str]] = {}
    for execution in sorted(store.get_executions(), key=lambda one: one.id):
        (context,) = (
            context
            for context in store.get_contexts_by_execution(execution.id)
            if context.type == "node"
        )
        name = context.name.rpartition(".")[2]
        state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
        found.setdefault(name, []).append(state)
    return found


def fail(message: str) -> Callable[[], None]:
    def action() -> None:
        raise ValueError(message)

    return action


def wait_for(event: threading.Event) -> None:
    assert event.wait(HANG_SECS)


def test_a_step_runs_beside_others_until_one_needs_it(tmp_path: Path) -> None:
    events: list[tuple[str, bool]] = []
    judged = threading.Event()
    # If `check` did not run beside the others, it would wait for a step that comes after it.
    actions = {"check": lambda: wait_for(judged), "judge": judged.set}
    run_steps(
        tmp_path,
        actions,
        aside=ASIDE,
        on_step=lambda name, seconds: events.append((name, seconds is not None)),
    )
    assert sorted(events) == sorted((name, ended) for name in NAMES for ended in (False, True))
    assert events.index(("check", False)) < events.index(("judge", True))
    assert events.index(("check", True)) < events.index(("publish", False))
    assert states(tmp_path) == {name: ["COMPLETE"] for name in NAMES}


def test_without_a_second_thread_steps_run_in_order(tmp_path: Path) -> None:
    events: list[tuple[str, bool]] = []
    threads = set()

    def on_step(name: str, seconds: float | None) -> None:
        events.append((name, seconds is not None))
        threads.add(threading.get_ident())

    run_steps(tmp_path, {}, aside={}, on_step=on_step)
    assert events == [(name, ended) for name in NAMES for ended in (False, True)]
    assert threads == {threading.get_ident()}


def test_a_repeated_run_comes_from_the_cache(tmp_path: Path) -> None:
    run_steps(tmp_path, {}, aside=ASIDE)
    run_steps(tmp_path, {name: fail("not cached") for name in NAMES}, aside=ASIDE)
    assert states(tmp_path) == {name: ["COMPLETE", "CACHED"] for name in NAMES}


def test_only_a_step_that_is_not_cached_begins_to_work(tmp_path: Path) -> None:
    begun: list[str] = []
    for _ in range(2):
        run_steps(tmp_path, {}, aside=ASIDE, at_work={"measure": lambda: begun.append("measure")})
    assert begun == ["measure"]


def test_a_failure_aside_hides_no_result(tmp_path: Path) -> None:
    failed = threading.Event()

    def check() -> None:
        failed.set()
        raise ValueError("no server loads it")

    actions = {"check": check, "measure": lambda: wait_for(failed)}
    with pytest.raises(ValueError, match="no server loads it"):
        run_steps(tmp_path, actions, aside=ASIDE)
    assert states(tmp_path) == {
        "prepare": ["COMPLETE"],
        "check": ["FAILED"],
        "measure": ["COMPLETE"],
        "judge": ["COMPLETE"],
    }
    run_steps(tmp_path, {"measure": fail("not cached")}, aside=ASIDE)
    assert states(tmp_path)["check"] == ["FAILED", "COMPLETE"]


def test_a_failure_waits_for_the_step_aside(tmp_path: Path) -> None:
    measured = threading.Event()

    def measure() -> None:
        measured.set()
        raise ValueError("nothing to measure")

    def check() -> None:
        wait_for(measured)
        time.sleep(0.1)

    with pytest.raises(ValueError, match="nothing to measure") as caught:
        run_steps(tmp_path, {"check": check, "measure": measure}, aside=ASIDE)
    assert not hasattr(caught.value, "__notes__")
    assert states(tmp_path) == {
        "prepare": ["COMPLETE"],
        "check": ["COMPLETE"],
        "measure": ["FAILED"],
    }


def test_two_failures_are_both_reported(tmp_path: Path) -> None:
    measured = threading.Event()

    def measure() -> None:
        measured.set()
        raise ValueError("nothing to measure")

    def check() -> None:
        wait_for(measured)
        raise ValueError("no server loads it")

    with pytest.raises(ValueError, match="nothing to measure") as caught:
        run_steps(tmp_path, {"check": check, "measure": measure}, aside=ASIDE)
    assert caught.value.__notes__ == ["check failed, too: ValueError: no server loads it"]
    assert states(tmp_path) == {
        "prepare": ["COMPLETE"],
        "check": ["FAILED"],
        "measure": ["FAILED"],
    }


@pytest.mark.parametrize(
    ("waiting", "sent", "code"), [("measure", signal.SIGINT, 130), ("judge", signal.SIGTERM, 143)]
)
def test_a_signal_ends_both_steps(
    tmp_path: Path, waiting: str, sent: signal.Signals, code: int
) -> None:
    """While the main thread is in a step, and while it waits for the one aside."""
    process = Forked(
        "tests.pipeline.fake_run",
        str(tmp_path),
        waiting,
        output=tmp_path / "output.txt",
        errors=tmp_path / "errors.txt",
        # A group of its own, which gets the signal as a whole, as from a terminal.
        new_session=True,
    )
    process.wait_for("at work")
    while not hanging_probe.pid_file(tmp_path).exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, sent)
    ended = process.wait()
    lines = process.text.splitlines()
    assert ended == code, lines
    assert lines[-1].endswith("what is finished stays, start again to go on")
    with pytest.raises(ProcessLookupError):
        os.kill(int(hanging_probe.pid_file(tmp_path).read_text(encoding="utf-8")), 0)
    before = states(tmp_path)
    assert (before["prepare"], before["check"]) == (["COMPLETE"], ["FAILED"])

    hanging_probe.finish_file(tmp_path).touch()
    run_steps(tmp_path, {"check": lambda: check_fake_model(tmp_path)}, aside=ASIDE)
    after = states(tmp_path)
    assert after["prepare"] == ["COMPLETE", "CACHED"]
    assert after["check"] == ["FAILED", "COMPLETE"]
    assert after["publish"] == ["COMPLETE"]
