"""ServingCheck blesses a sound export and names the stage of one that is not."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tfx.types import standard_artifacts

from components.serving_check import check, executor, probe
from components.serving_check.check import CheckStoppedError, check_model
from components.serving_check.config import ServingCheckConfig
from components.serving_check.probe import run_check
from components.serving_check.server import check_server
from components.serving_check.session import SessionModel
from serving import names
from serving.golden import ANSWERS, read_golden, write_golden
from tests.forked import ROOT
from tests.limits import HANG_SECS
from tests.pipeline import hanging_probe
from tests.serving.conftest import Exported
from trainer.model_card import EXPORTED_CARD

QUICK = ServingCheckConfig(latency_requests=1, batch_sizes=(1, 3))


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the export, to damage."""
    return Path(shutil.copytree(exported.folder, tmp_path / "Format-Serving"))


@pytest.fixture(scope="module")
def loaded(exported: Exported) -> Iterator[SessionModel]:
    model = SessionModel(str(exported.folder))
    yield model
    model.close()


@pytest.fixture
def loaded_once(loaded: SessionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of copies with the same graph and weights share a session.

    TensorFlow optimises the graph in each session anew, which takes seconds.
    """
    monkeypatch.setattr(loaded, "close", lambda: None)
    monkeypatch.setattr(probe, "SessionModel", lambda _: loaded)


def test_a_sound_export_is_blessed_by_the_component(copy: Path) -> None:
    model, blessing = standard_artifacts.Model(), standard_artifacts.InfraBlessing()
    model.uri, blessing.uri = str(copy.parent), str(copy.parent / "blessing")
    Path(blessing.uri).mkdir()
    executor.Executor().Do(
        {executor.MODEL: [model]},
        {executor.BLESSING: [blessing]},
        {executor.CHECK_CONFIG: QUICK.model_dump_json()},
    )
    report = json.loads((Path(blessing.uri) / executor.REPORT_FILE).read_text())
    assert report["blessed"], report["summary"]
    assert blessing.get_int_custom_property("blessed") == 1
    assert (Path(blessing.uri) / "INFRA_BLESSED").exists()
    stages = {stage["name"]: stage["difference"] for stage in report["stages"]}
    assert {"bulk job", "bad images are refused"} <= stages.keys()
    assert 0 < max(stages.values()) < QUICK.tolerance
    assert report["figures"]["images"] == 6


@pytest.mark.usefixtures("loaded_once")
def test_another_answer_than_in_memory_names_stage_image_and_numbers(copy: Path) -> None:
    path = str(copy / names.EXTRA_ASSETS / names.GOLDEN)
    golden = read_golden(path)
    other = golden.answers[names.EMBEDDING].copy()
    other[2, 0] += 1.0
    answers = golden.answers | {names.EMBEDDING: other}
    write_golden(dataclasses.replace(golden, answers=answers), path)
    report = run_check(str(copy), QUICK)
    assert not report.blessed
    refused = {stage.name for stage in report.stages if stage.fault}
    assert refused == {
        "signature annotate in a TF1 session",
        "signature annotate_pixels in a TF1 session",
        "signature embed in a TF1 session",
        "signature embed_pixels in a TF1 session",
        "bulk job",
    }
    assert "embedding of golden image 2" in report.refusals[-1]


def test_weights_that_are_missing_refuse_the_model(copy: Path) -> None:
    shutil.rmtree(copy / "variables")
    report = run_check(str(copy), QUICK)
    (refusal,) = report.refusals
    assert refusal.startswith("load in a TF1 session: ")


def test_a_process_that_hangs_is_refused(exported: Exported) -> None:
    report = check_model(str(exported.folder), ServingCheckConfig(timeout_secs=0.01))
    assert report.refusals == ["fresh process: no answer in serving_check.timeout_secs = 0.01"]


def test_the_golden_set_is_read_as_it_was_written(exported: Exported, tmp_path: Path) -> None:
    golden = read_golden(str(exported.folder / names.EXTRA_ASSETS / names.GOLDEN))
    assert golden.levels.shape == (len(golden), 8, 8, 1)
    assert golden.answers.keys() == set(ANSWERS)
    np.testing.assert_allclose(golden.answers[names.PROBABILITIES].sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="no golden set"):
        read_golden(str(tmp_path / "nothing.npz"))
    cut = tmp_path / "cut.npz"
    cut.write_bytes((exported.folder / names.EXTRA_ASSETS / names.GOLDEN).read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.npz: no golden set to compare with"):
        read_golden(str(cut))


class Server:
    """A model server whose embeddings differ from the golden ones by `offset`."""

    offset = 0.0

    def __init__(self, target: str, **_: object) -> None:
        self.folder = target.removeprefix("grpc://")

    def predict(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        golden = read_golden(self.folder)
        rows = np.arange(len(inputs[names.IMAGE_BYTES])) % len(golden)
        found = {name: answer[rows] for name, answer in golden.answers.items()}
        return found | {names.EMBEDDING: found[names.EMBEDDING] + type(self).offset}


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(
    ("body_dtype", "offset", "limit"),
    [
        ("float32", 0.00001, ""),
        ("float32", 0.01, "serving_check.tolerance is 0.0001"),
        ("mixed_bfloat16", 0.01, ""),
        ("mixed_bfloat16", 0.5, "serving_check.tolerance is 0.0001, times 500 for mixed_bfloat16"),
    ],
)
def test_a_server_is_held_to_the_same_tolerance_as_a_session(
    copy: Path, monkeypatch: pytest.MonkeyPatch, body_dtype: str, offset: float, limit: str
) -> None:
    path = copy / EXPORTED_CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"body_dtype": body_dtype}))
    golden = str(copy / names.EXTRA_ASSETS / names.GOLDEN)
    monkeypatch.setattr(Server, "offset", offset)
    monkeypatch.setattr("serving.client.PredictClient", Server)
    (stage,) = check_server(str(copy), QUICK.model_copy(update={"server": golden}))
    assert bool(stage.fault) == bool(limit)
    assert stage.fault.endswith(limit)

    if body_dtype == "float32":
        # What a session allows a float32 model is in the test above.
        return
    exact = read_golden(golden)
    moved = exact.answers | {names.EMBEDDING: exact.answers[names.EMBEDDING] + np.float32(offset)}
    write_golden(dataclasses.replace(exact, answers=moved), golden)
    refusals = run_check(str(copy), QUICK).refusals
    assert bool(refusals) == bool(limit)
    assert all(line.endswith(limit) for line in refusals)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_stopped_refuses_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(check, "_PROBE", hanging_probe.__name__)
    monkeypatch.chdir(ROOT)
    hanging_probe.signal_file(tmp_path).write_text(str(number.value), encoding="utf-8")
    with pytest.raises(CheckStoppedError, match="start the run again"):
        check_model(str(tmp_path), QUICK)


def test_a_process_that_is_killed_refuses_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_PROBE", hanging_probe.__name__)
    monkeypatch.chdir(ROOT)
    hanging_probe.signal_file(tmp_path).write_text(str(signal.SIGKILL.value), encoding="utf-8")
    report = check_model(str(tmp_path), QUICK)
    assert report.refusals == ["fresh process: killed by signal 9: the model crashes what loads it"]


def test_the_process_ends_with_a_run_that_is_killed() -> None:
    """Its standard input stays open, so that it can only notice the death."""
    child = (
        "import os\n"
        "from components.serving_check import process\n"
        "process.leave_out_keras = lambda: print(os.getpid(), flush=True)\n"
        "process.main()"
    )
    run = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", run], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        parent.kill()
        deadline = time.monotonic() + HANG_SECS
        while Path(f"/proc/{number}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_process_that_was_started_ahead_checks_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    """If it has ended in the meantime, another one does."""
    monkeypatch.setattr(check, "_PROBE", hanging_probe.__name__)
    monkeypatch.chdir(ROOT)
    check.start_ahead()
    (ahead,) = check._AHEAD
    if has_ended:
        ahead.kill()
        ahead.wait()
    hanging_probe.finish_file(tmp_path).touch()
    assert check_model(str(tmp_path), QUICK).refusals == ["fake: refused"]
    used = int(hanging_probe.pid_file(tmp_path).read_text(encoding="utf-8"))
    assert (used == ahead.pid) != has_ended
    assert not check._AHEAD


def test_a_process_that_was_started_for_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_PROBE", hanging_probe.__name__)
    monkeypatch.chdir(ROOT)
    check.start_ahead()
    (ahead,) = check._AHEAD
    check.end_ahead()
    assert ahead.returncode is not None
    assert not check._AHEAD


def test_the_memory_of_the_process_is_its_own() -> None:
    """Not that of a larger process that has started it, which would hide what bad images take."""
    held = b"x" * (256 << 20)
    code = "from components.serving_check.memory import peak_memory_mib as p; print(p())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert 0 < float(done.stdout) < len(held) / (1 << 20)
