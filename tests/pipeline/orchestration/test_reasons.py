"""When there is a reason to train again, and when there is none."""

import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.image_sources.config import InputConfig
from components.retraining.config import RetrainConfig
from components.retraining.history import from_json, to_json
from components.retraining.reasons import Attempt, Drift, Images, decide, look
from pipeline.config import ConfigError, parse_config
from pipeline.orchestration.lock import LockedError, run_lock
from pipeline.orchestration.retrain import attempts, find_reason, retrain
from pipeline.runs.store import read_runs
from tests.pipeline.orchestration.stores import CACHED, FAILED, RUNNING, Store

DAY = 86_400.0
NOW = 100 * DAY
INPUT = InputConfig.model_validate({"paths": "a.zip"})


def images(*spans: int, fingerprint: str = "new") -> Images:
    return Images(INPUT, spans, spans[-1] if spans else 0, None, fingerprint)


def attempt(span: int, *, days: float = 1, blessed: bool = True, of: str = "old") -> Attempt:
    return Attempt(f"run-{span}", span, of, NOW - days * DAY, blessed)


def alarm(days: float = 0.1) -> Drift:
    return Drift("bulk/drift.json", True, NOW - days * DAY)


def ask(found: Images, *earlier: Attempt, drift: Drift | None = None, **rules: Any) -> Any:
    return decide(found, earlier, RetrainConfig(**rules), drift=drift, now=NOW)


@pytest.mark.parametrize(
    ("decision", "train", "reason"),
    [
        (ask(images(1)), True, "there is no blessed model yet"),
        (ask(images(1), attempt(1, blessed=False)), True, "there is no blessed model yet"),
        (ask(images(1, 2, 3), attempt(1)), True, "2 spans are new since the last blessed model"),
        (ask(images(1, 2), attempt(1), min_new_spans=2), False, "1 span is new; retrain.min_new"),
        (ask(images(1), attempt(1)), True, "earlier spans were added, changed or removed since"),
        (ask(images(), attempt(0), min_new_spans=9), True, "the images changed since"),
        (ask(images(1, 2), attempt(1), drift=alarm(), min_new_spans=2), True, "reports drift"),
        (
            ask(images(1, 2), attempt(1), drift=alarm(3), min_new_spans=2),
            False,
            "no drift was reported since the last blessed model",
        ),
        (
            ask(images(1, 2), attempt(1, days=31), max_age_days=30, min_new_spans=2),
            True,
            "31.0 days old, and 1 span is new",
        ),
        (
            ask(images(1, 2), attempt(1), attempt(2, blessed=False), min_new_spans=1),
            True,
            "1 span is new since the last blessed model",
        ),
    ],
)
def test_there_is_a_reason_or_none(decision: Any, train: bool, reason: str) -> None:
    assert decision.train is train
    assert reason in decision.reason


@pytest.mark.parametrize("blessed", [True, False])
def test_the_same_images_are_never_trained_on_twice(blessed: bool) -> None:
    earlier = [attempt(1), attempt(2, blessed=blessed, of="same")]
    found = images(1, 2, fingerprint="same")
    decision = ask(found, *earlier, drift=alarm(), max_age_days=0.001)
    assert not decision.train
    assert "run-2 trained on these images" in decision.reason
    assert "drift is reported, but there are no new images" in decision.reason
    forced = decide(found, earlier, RetrainConfig(), now=NOW, force=True)
    assert forced.train


def test_a_record_comes_back_as_it_was() -> None:
    earlier = [attempt(1), attempt(2, blessed=False)]
    assert from_json("f", to_json(earlier)) == earlier
    with pytest.raises(ValueError, match=r"^f: is no record of trainings"):
        from_json("f", '{"attempts": [{"span": 1}]}')


def write_day(folder: Path, day: str, content: str = "x") -> None:
    with zipfile.ZipFile(folder / f"{day}.zip", "w") as archive:
        archive.writestr("a/1.png", content)


def test_days_are_spans_and_a_changed_archive_is_seen(tmp_path: Path) -> None:
    pattern = f"{tmp_path}/{{YYYY}}-{{MM}}-{{DD}}.zip"
    rolling = InputConfig.model_validate({"paths": pattern, "spans": {"latest": 2}})
    every = InputConfig.model_validate({"paths": pattern, "spans": {"latest": "all"}})
    for day in ("1970-01-02", "1970-01-03", "1970-01-05"):
        write_day(tmp_path, day)
    assert look(rolling).spans == (1, 2, 4)
    assert len(look(rolling).input_config.paths) == 2
    assert len(look(every).input_config.paths) == 3
    before = look(rolling).fingerprint
    write_day(tmp_path, "1970-01-02", "changed")
    assert look(rolling).fingerprint == before, "it is out of the window"
    assert look(every).fingerprint != before
    write_day(tmp_path, "1970-01-06")
    assert look(rolling).fingerprint != before


@pytest.fixture
def days(tmp_path: Path) -> Path:
    folder = tmp_path / "days"
    folder.mkdir()
    write_day(folder, "1970-01-02")
    return folder


def test_the_metadata_store_is_asked(tmp_path: Path, days: Path) -> None:
    def config(**retrain: Any) -> Any:
        paths = f"{days}/{{YYYY}}-{{MM}}-{{DD}}.zip"
        return parse_config({"input": {"paths": paths}, "retrain": retrain})

    assert find_reason(config(), root=tmp_path).reason == "there is no blessed model yet"
    first = look(config().input).fingerprint
    store = Store(tmp_path)
    store.training_run("monday", span=1, fingerprint=first)
    assert "run monday trained on these images and was blessed" in (
        find_reason(config(), root=tmp_path).reason
    )
    write_day(days, "1970-01-03")
    assert find_reason(config(), root=tmp_path).train
    assert not find_reason(config(min_new_spans=2), root=tmp_path).train

    report = tmp_path / "bulk" / "drift.json"
    report.parent.mkdir()
    report.write_text(json.dumps({"alarm": True}))
    os.utime(report, (4e9, 4e9))
    drifted = find_reason(config(min_new_spans=2, drift_report=str(report.parent)), root=tmp_path)
    assert drifted.train
    report.write_text("[]")
    with pytest.raises(ConfigError, match="is no drift report"):
        find_reason(config(drift_report=str(report)), root=tmp_path)

    second = look(config().input).fingerprint
    store.step("tuesday", "ImageExampleGen", writes={
        "examples": store.artifact("Examples", span=2, input_fingerprint=second)
    })  # fmt: skip
    store.step("tuesday", "Trainer", state=FAILED)
    # The second time, the run that resumes it is killed before it has its images.
    for _ in range(2):
        going_on = find_reason(config(min_new_spans=9), root=tmp_path)
        assert going_on.train
        assert going_on.reason == "run tuesday failed and resumes"
        store.step("wednesday", "ImageExampleGen", state=RUNNING)
    (known,) = attempts(read_runs(store.root))
    assert (known.run, known.span, known.blessed) == ("monday", 1, True)


def test_a_run_that_came_from_the_cache_makes_no_model_younger(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.training_run("monday", fingerprint="old")
    first = attempts(read_runs(store.root))[-1]
    # `vaeline run` again, as to get the report: nothing is trained.
    for name, output in (("ImageExampleGen", "examples"), ("Trainer", "model"),
                         ("Evaluator", "blessing"), ("Pusher", "pushed_model")):  # fmt: skip
        store.step("tuesday", name, writes={output: made[output]}, state=CACHED)
    again = attempts(read_runs(store.root))[-1]
    assert (again.run, again.ended) == ("tuesday", first.ended)
    store.training_run("wednesday", fingerprint="new")
    assert attempts(read_runs(store.root))[-1].ended > first.ended


def test_beside_a_run_only_its_owner_is_named(tmp_path: Path, days: Path) -> None:
    said: list[str] = []
    terminal: Any = SimpleNamespace(say=said.append)
    with run_lock(tmp_path, "a run"), pytest.raises(LockedError, match="is in use: a run by"):
        retrain(terminal, parse_config({"input": {"paths": f"{days}/*"}}), root=tmp_path)
    assert not said, "a run at work looks interrupted"
