"""What `vaeline runs` reads out of a metadata store."""

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from components.model_gate.verdict import Check, Result, Verdict
from pipeline.local_runner import RootError, require_name
from pipeline.orchestration.retrain import attempts
from pipeline.runs.lineage import LineageError, trace
from pipeline.runs.result import TrainingResult
from pipeline.runs.store import METADATA_FILE, latest_run, note_latest_run, read_runs
from tests.forked import vaeline
from tests.pipeline.orchestration.stores import CACHED, DONE, FAILED, RUNNING, Store

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_run_tells_its_steps_metrics_and_verdict(store: Store) -> None:
    made = store.training_run("first", span=7, blessed=False)
    metrics = {f"metric:{name}": 0.875 for name in ("log_loss", "accuracy", "top_k", "elbo")}
    note_latest_run(store.root, {**metrics, "refusals": "too low\ntoo slow"})
    (run,) = read_runs(store.root)
    assert run.state == "finished"
    assert list(run.metrics.items()) == [
        (name, 0.875) for name in ("accuracy", "elbo", "log_loss", "top_k")
    ]
    assert run.blessed is False
    assert run.refusals == ["too low", "too slow"]
    assert (run.span, run.images) == (7, 100)
    assert [step["name"] for step in run.as_dict()["steps"]] == [
        "ImageExampleGen", "Trainer", "Evaluator", "Pusher",
    ]  # fmt: skip
    assert run.as_dict()["steps"][1]["inputs"] == {"examples": [str(store.uri(made["examples"]))]}


@pytest.mark.parametrize(
    ("span", "archives", "title"),
    [
        (20761, ("in/2026-11-03.zip", "in/2026-11-04.zip"), "2026-11-04"),
        (20761, ("in/2026/11/04/*.jpg",), "2026-11-04"),
        (20761, ("in/04.11.2026.tar",), "2026-11-04"),
        (20761, ("in/{YYYY}-{MM}-{DD}.zip",), "2026-11-04"),
        (20761, ("in/20761.zip", "in/2026-11-03.zip"), "20761"),
        (20261104, ("in/20261104.zip",), "20261104"),
        (7, (), "7"),
    ],
)
def test_a_span_is_shown_as_its_archives_name_it(
    store: Store, span: int, archives: tuple[str, ...], title: str
) -> None:
    store.training_run("first", span=span, archives=archives)
    (run,) = read_runs(store.root)
    assert (run.span, run.span_title) == (span, title)


def test_a_cached_step_keeps_the_time_of_the_run_that_made_its_outputs(store: Store) -> None:
    examples = store.artifact("Examples")
    for run, state in (("first", DONE), ("second", CACHED), ("third", CACHED)):
        store.step(run, "ImageExampleGen", writes={"examples": examples}, state=state)
        store.step(run, "Resolver", state=CACHED)
    connection = sqlite3.connect(store.root / METADATA_FILE)
    with connection:
        connection.execute(
            "UPDATE Execution SET last_update_time_since_epoch = create_time_since_epoch + 42000"
            " WHERE last_known_state = 3 AND id = 1"
        )
    connection.close()
    first, second, third = (run.steps["ImageExampleGen"] for run in read_runs(store.root))
    assert (first.seconds, first.work_seconds) == (42, 42)
    for later in (second, third):
        assert later.seconds < 42
        assert later.work_seconds == 42
    resolver = read_runs(store.root)[-1].steps["Resolver"]
    assert resolver.work_seconds == resolver.seconds


def test_the_gates_table_gives_the_reasons(store: Store) -> None:
    made = store.training_run("first", blessed=False)
    check = Check("recall of 3", "0.51", ">= 0.9", Result.REFUSED, True, "recall of 3 is 0.51")
    measures = {"overall": {"accuracy": 0.9, "example_count": 60.0}}
    verdict = Verdict(checks=[check], first_model=True, measures=measures)
    path = store.uri(made["blessing"]) / "verdict.json"
    path.write_text(verdict.to_json())
    (run,) = read_runs(store.root)
    assert run.refusals == ["recall of 3 is 0.51"]
    assert run.metrics == {"accuracy": 0.9}
    path.write_text("[]")
    (damaged,) = read_runs(store.root)
    assert (damaged.refusals, damaged.metrics) == ([], {})


def test_a_model_that_cannot_be_served_is_not_blessed(store: Store) -> None:
    store.step("first", "ServingCheck", writes={"blessing": store.artifact("InfraBlessing",
                                                                           blessed=1)})  # fmt: skip
    assert read_runs(store.root)[0].blessed is None, "the gate has not spoken"
    store.step("first", "Measure", writes={"blessing": store.artifact("ModelBlessing")})
    store.training_run("first", blessed=True)
    assert read_runs(store.root)[0].blessed is True
    refused = store.artifact("InfraBlessing", blessed=0, summary="REFUSED: label of image 3")
    store.step("second", "ServingCheck", writes={"blessing": refused})
    store.training_run("second", blessed=True)
    second = read_runs(store.root)[1]
    assert (second.blessed, second.verdict) == (False, "REFUSED")
    assert second.refusals == ["the export does not serve as it was trained: label of image 3"]
    assert [attempt.blessed for attempt in attempts(read_runs(store.root))] == [True, False]


def test_the_verdict_is_found_after_the_root_was_moved(tmp_path: Path) -> None:
    store = Store(tmp_path / "here")
    made = store.training_run("first", blessed=True)
    verdict = Verdict(checks=[], first_model=True, measures={"overall": {"accuracy": 0.9}})
    (store.uri(made["blessing"]) / "verdict.json").write_text(verdict.to_json())
    moved = tmp_path.joinpath("here").rename(tmp_path / "there")
    run = latest_run(moved)
    assert run.metrics == {"accuracy": 0.9}
    assert run.folder("Trainer", "model") == moved / "artifacts" / "Model" / "2"


def test_a_store_whose_writer_was_killed_is_repaired(store: Store, tmp_path: Path) -> None:
    store.training_run("first")
    killed = tmp_path / "killed"
    killed.mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "metadata.sqlite")) as writer:
        # With a cache of one page, the pages of an open transaction go to the file.
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("CREATE TABLE padding (content BLOB)")
        writer.commit()
        writer.executemany("INSERT INTO padding VALUES (?)", [(b"x" * 4096,)] * 50)
        for file in tmp_path.glob("metadata.sqlite*"):
            shutil.copy(file, killed)
        writer.rollback()
    assert (killed / "metadata.sqlite-journal").stat().st_size > 0
    assert latest_run(killed).state == "finished"


def test_a_read_only_root_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.training_run("first")
    note_latest_run(store.root, {"not_labelled": "the model was refused"})
    before = (store.root / "metadata.sqlite").read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert latest_run(store.root).not_labelled == "the model was refused"
    assert (store.root / "metadata.sqlite").read_bytes() == before


@pytest.mark.parametrize(
    ("last", "is_held", "state"),
    [(FAILED, True, "failed"), (RUNNING, True, "running"), (RUNNING, False, "stopped")],
)
def test_a_run_that_did_not_end_says_so(store: Store, last: Any, is_held: bool, state: str) -> None:
    store.training_run("first")
    store.step("second", "ImageExampleGen", writes={"examples": store.artifact("Examples")})
    store.step("second", "Trainer", state=last)
    first, second = read_runs(store.root, is_held=is_held)
    assert (first.state, second.state) == ("finished", state)
    assert (first.ended_in, second.ended_in) == ("", "" if state == "running" else "Trainer")
    assert [step["state"] for step in second.as_dict()["steps"]] == ["done", state]
    assert second.blessed is None


def test_the_latest_run_knows_what_was_cached(store: Store) -> None:
    made = store.training_run("first")
    store.step("second", "Trainer", writes={"model": made["model"]}, state=CACHED)
    steps = latest_run(store.root).steps
    assert list(steps) == ["Trainer"]
    assert steps["Trainer"].cached
    assert steps["Trainer"].output("model") == str(store.uri(made["model"]))


def test_the_latest_run_is_the_last_one_though_the_clock_was_set_back(
    store: Store, tmp_path: Path
) -> None:
    store.training_run("first")
    with contextlib.closing(sqlite3.connect(tmp_path / METADATA_FILE)) as connection:
        connection.execute("UPDATE Context SET create_time_since_epoch = 1e15")
        connection.commit()
    store.training_run("second")
    assert latest_run(tmp_path).name == "second"


def test_a_pipeline_of_another_name_does_not_bless_beside_the_models_of_a_root(
    store: Store, tmp_path: Path
) -> None:
    require_name(tmp_path / "new", "flowers")
    store.training_run("first", blessed=False)
    require_name(tmp_path, "flowers")
    store.training_run("second")
    require_name(tmp_path, "digits")
    with pytest.raises(RootError, match="those of the pipeline digits, and flowers would not be"):
        require_name(tmp_path, "flowers")


def test_lineage_goes_back_through_the_cache(store: Store, tmp_path: Path) -> None:
    pushed = tmp_path / "pushed" / "17"
    (pushed / "assets.extra").mkdir(parents=True)
    (pushed / "assets.extra" / "push.json").write_text('{"metrics": {"accuracy": 0.99}}')
    made = store.training_run("first", span=3, fingerprint="f00", archives=("a.zip", "b.tar"))
    store.step("second", "Trainer", reads={"examples": made["examples"]},
               writes={"model": made["model"]}, state=CACHED)  # fmt: skip
    blessing = store.artifact("ModelBlessing", blessed=1)
    store.step("second", "Evaluator", reads={"model": made["model"]}, writes={"blessing": blessing})
    store.step("second", "Pusher", reads={"model": made["model"], "model_blessing": blessing},
               writes={"pushed_model": store.artifact("PushedModel",
                                                      pushed_destination=str(pushed))})  # fmt: skip
    origin = trace(read_runs(store.root), str(pushed))
    assert (origin.pushed_by, origin.trained_by) == ("second", "first")
    assert origin.archives == ["a.zip", "b.tar"]
    assert (origin.span, origin.fingerprint, origin.code) == (3, "f00", "c0de")
    assert origin.metrics == {"accuracy": 0.99}
    assert [(step["run"], step["step"]) for step in origin.steps] == [
        ("second", "Pusher"),
        ("first", "Trainer"),
        ("second", "Evaluator"),
        ("first", "ImageExampleGen"),
    ]
    copy = tmp_path / "pushed" / "18"
    (copy / "assets.extra").mkdir(parents=True)
    (copy / "assets.extra" / "push.json").write_text('{"copy_of": 17, "rolled_back_from": 16}')
    assert trace(read_runs(store.root), f"{copy}/").steps == origin.steps, "as after a rollback"


def test_lineage_is_not_that_of_the_model_it_started_from(store: Store, tmp_path: Path) -> None:
    pushed = tmp_path / "pushed" / "2"
    first = store.training_run("first", fingerprint="mon", archives=("mon.zip",))
    examples = store.artifact("Examples", input_fingerprint="tue")
    model = store.artifact("Model")
    store.step("second", "ImageExampleGen", writes={"examples": examples},
               input_config=json.dumps({"paths": ["tue.zip"]}))  # fmt: skip
    store.step("second", "base_model", writes={"model": first["model"], "examples": examples})
    store.step("second", "Trainer", reads={"examples": examples, "base_model": first["model"]},
               writes={"model": model})  # fmt: skip
    store.step("second", "Pusher", reads={"model": model},
               writes={"pushed_model": store.artifact("PushedModel",
                                                      pushed_destination=str(pushed))})  # fmt: skip
    origin = trace(read_runs(store.root), str(pushed))
    assert (origin.trained_by, origin.fingerprint) == ("second", "tue")
    assert origin.archives == ["tue.zip"]
    assert origin.started_from == str(store.uri(first["model"]))


def test_a_push_of_an_earlier_run_is_said_to_be_one(tmp_path: Path) -> None:
    def line(pushed: Path | str, *, cached: bool) -> str:
        fields = dict.fromkeys(each.name for each in dataclasses.fields(TrainingResult))
        steps = {"Pusher": {"cached": cached}}
        facts: dict[str, Any] = {**fields, "pushed": str(pushed), "steps": steps}
        return TrainingResult(**facts).push_line

    assert line("", cached=True) == "nothing was pushed"
    assert line(tmp_path, cached=False) == str(tmp_path)
    assert line(tmp_path, cached=True) == f"{tmp_path}, by an earlier run"
    assert line("s3://bucket/1", cached=True) == "s3://bucket/1, by an earlier run"
    assert line(tmp_path / "1", cached=True).endswith("/1, by an earlier run, was removed")


def test_a_model_from_elsewhere_has_no_lineage(store: Store, tmp_path: Path) -> None:
    store.training_run("first", pushed=str(tmp_path / "pushed" / "1"))
    with pytest.raises(LineageError, match="no run of this root pushed it"):
        trace(read_runs(store.root), str(tmp_path / "pushed" / "2"))


def test_the_commands_show_and_tell(store: Store, tmp_path: Path) -> None:
    pushed = str(tmp_path / "pushed" / "1")
    store.training_run("2026-11-22T10:00:00", pushed=pushed)
    listed = vaeline("runs", "list", "--root", str(tmp_path), "--json")
    (run,) = json.loads(listed.stdout)["runs"]
    assert run["pushed"] == pushed
    shown = vaeline("runs", "show", "2026-11-22", "--root", str(tmp_path), "--json")
    assert json.loads(shown.stdout)["run"] == "2026-11-22T10:00:00"
    traced = vaeline("runs", "lineage", pushed, "--json")
    assert json.loads(traced.stdout)["archives"] == ["a.zip"]
    (tmp_path / "pushed" / "1").mkdir(parents=True, exist_ok=True)
    (tmp_path / "pushed" / "1" / "saved_model.pb").touch()
    (tmp_path / "pushed" / "aliases").mkdir()
    (tmp_path / "pushed" / "aliases" / "champion").write_text("1\n")
    for address in (f"{tmp_path}/pushed@champion", f"{tmp_path}/pushed"):
        named = vaeline("runs", "lineage", address, "--json")
        assert json.loads(named.stdout) == json.loads(traced.stdout)
    unknown = vaeline("runs", "show", "1999", "--root", str(tmp_path))
    assert unknown.returncode == 1
    assert "there is no run '1999'" in unknown.stdout


def test_a_root_without_runs_is_named(tmp_path: Path) -> None:
    done = vaeline("runs", "list", "--root", str(tmp_path))
    assert done.returncode == 1
    assert f"error: {tmp_path}/metadata.sqlite: no run has been recorded here" in done.stdout
