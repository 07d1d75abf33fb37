"""What `vaeline gc` removes, what it keeps, and what it says of it in the metadata."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from ml_metadata import proto

from pipeline.runs.repair import survey_root
from pipeline.runs.retention import plan, remove_artifacts
from pipeline.runs.store import read_runs
from tests.forked import vaeline
from tests.pipeline.orchestration.stores import FAILED, Store

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def planned(
    store: Store, *, keep_runs: int = 1, with_images: bool = False, with_pruned: bool = False
) -> set[int | None]:
    found = plan(store.root, keep_runs=keep_runs, with_images=with_images, with_pruned=with_pruned)
    return {removal.artifact for removal in found}


def test_refused_models_go_and_blessed_ones_stay(store: Store) -> None:
    refused = store.training_run("1", blessed=False)
    blessed = store.training_run("2", blessed=True)
    latest = store.training_run("3", blessed=False)
    assert planned(store) == set(refused.values())
    assert planned(store, keep_runs=3) == set()
    assert planned(store, with_images=True) == {*refused.values(), blessed["examples"]}
    assert not planned(store) & {*blessed.values(), *latest.values()}


def test_what_a_blessed_model_was_made_from_stays(store: Store) -> None:
    first = store.training_run("1", blessed=False)
    model = store.artifact("Model")
    store.step("2", "Trainer", reads={"examples": first["examples"]}, writes={"model": model})
    store.step("2", "Evaluator", reads={"model": model},
               writes={"blessing": store.artifact("ModelBlessing", blessed=1,
                                                  current_model_id=model)})  # fmt: skip
    store.training_run("3", blessed=False)
    assert first["examples"] not in planned(store)
    assert first["model"] in planned(store)


def test_models_that_no_pushed_version_holds_go_on_demand(store: Store) -> None:
    days: list[dict[str, int]] = []
    for number in range(1, 6):
        folder = store.root / "pushed" / str(number)
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").touch()
        made = store.training_run(str(number), pushed=str(folder))
        if days:
            # With a warm start, and a comparison with the last blessed model.
            earlier = days[-1]["model"]
            store.step(str(number), "Trainer",
                       reads={"examples": made["examples"], "base_model": earlier},
                       writes={name: made[name] for name in ("model", "model_run")})  # fmt: skip
            store.step(str(number), "Evaluator",
                       reads={"model": made["model"], "baseline_model": earlier},
                       writes={"blessing": made["blessing"]})  # fmt: skip
        days.append(made)
    assert planned(store, with_pruned=True) == set(), "all versions are there"
    for number in (1, 2, 4, 5):
        shutil.rmtree(store.root / "pushed" / str(number))
    assert planned(store) == set()
    # The third is served; the second is its base, and the fifth is the last blessed one.
    gone = {*days[0].values(), *days[1].values()} - {days[1]["model"]}
    assert planned(store, with_pruned=True) == gone | (set(days[3].values()) - {days[3]["model"]})
    copy = store.root / "pushed" / "6"
    (copy / "assets.extra").mkdir(parents=True)
    (copy / "saved_model.pb").touch()
    (copy / "assets.extra" / "push.json").write_text('{"copy_of": 1, "rolled_back_from": 5}')
    assert not planned(store, with_pruned=True) & set(days[0].values()), "a rollback holds it"
    shutil.rmtree(store.root / "pushed")
    assert planned(store, with_pruned=True) == set(), "the folder is elsewhere, or not mounted"


def test_the_leavings_of_a_failed_run_go(store: Store) -> None:
    left = store.artifact("Examples")
    store.step("1", "ImageExampleGen", writes={"examples": left})
    store.step("1", "Trainer", state=FAILED)
    store.training_run("2")
    assert planned(store) == {left}


def test_files_go_and_the_record_says_so(store: Store) -> None:
    refused = store.training_run("1", blessed=False)
    store.training_run("2")
    outside = store.root / "elsewhere"
    outside.mkdir()
    (artifact,) = store.store.get_artifacts_by_id([refused["model"]])
    artifact.uri = str(outside)
    store.store.put_artifacts([artifact])

    removals = plan(store.root, keep_runs=1, with_images=False)
    assert [removal.size for removal in removals] == [1000] * 4
    assert refused["model"] not in {removal.artifact for removal in removals}
    remove_artifacts(store.root, removals)
    for removal in removals:
        (artifact,) = store.store.get_artifacts_by_id([removal.artifact])
        assert artifact.state == proto.Artifact.DELETED
        assert not Path(removal.path).exists()
    assert outside.is_dir()
    assert planned(store) == set(), "what is gone is not found again"


def test_what_was_removed_is_not_taken_for_restored(store: Store) -> None:
    refused = store.training_run("1", blessed=False)
    # A check has no files, so that a copy of the root through a bucket lacks its folder.
    check = store.artifact("InfraBlessing", blessed=1)
    store.step("1", "ServingCheck", reads={"model": refused["model"]}, writes={"blessing": check})
    store.training_run("2")
    remove_artifacts(store.root, plan(store.root, keep_runs=1, with_images=False))
    assert not store.uri(check).exists()
    assert survey_root(store.root).found == ()


def test_a_removal_that_was_stopped_is_finished(store: Store) -> None:
    refused = store.training_run("1", blessed=False)
    store.training_run("2")
    (artifact,) = store.store.get_artifacts_by_id([refused["model"]])
    artifact.state = proto.Artifact.MARKED_FOR_DELETION
    store.store.put_artifacts([artifact])
    assert refused["model"] in planned(store)


def test_what_killed_runs_left_goes_unless_a_run_may_resume_it(store: Store) -> None:
    refused = store.training_run("1", blessed=False)
    store.training_run("2")
    artifacts = store.root / "artifacts"
    killed = artifacts / "ImageExampleGen" / "examples" / "1"
    old, recent = (artifacts / "training" / name for name in ("trainer-old", "trainer-recent"))
    for folder in (killed, old, recent):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "content").write_bytes(b"x" * 1000)
    for path in [old, *old.rglob("*")]:
        os.utime(path, (0, 0))

    removals = plan(store.root, keep_runs=1, with_images=False)
    left = [removal for removal in removals if removal.artifact is None]
    assert [(removal.path, removal.kind, removal.size) for removal in left] == [
        (str(path), "leftover", 1000) for path in (killed, old)
    ]
    remove_artifacts(store.root, removals)
    assert not killed.exists()
    assert not old.exists()
    assert recent.is_dir()
    assert not store.uri(refused["model"]).exists()
    assert plan(store.root, keep_runs=1, with_images=False) == []
    (gone,) = plan(store.root, keep_runs=0, with_images=True)[-1:]
    assert gone.path == str(recent)


def test_logs_of_runs_that_went_go_too(store: Store) -> None:
    def log(name: str) -> Path:
        path = store.root / "logs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("what a command said\n")
        return path

    store.training_run("1")
    (run,) = read_runs(store.root)
    names = [
        time.strftime("%Y-%m-%dT%H-%M-%S.log", time.localtime(run.started + shift))
        for shift in (-7200, -3600, -2, 3600)
    ]
    old, earlier, own, later = map(log, names)
    other = log("notes.log")

    removals = plan(store.root, keep_runs=1, with_images=False)
    assert [(r.kind, r.path, r.artifact) for r in removals] == [
        ("log", str(old), None),
        ("log", str(earlier), None),
    ]
    remove_artifacts(store.root, removals)
    assert sorted((store.root / "logs").iterdir()) == sorted([own, later, other])
    # The run that wrote the last log may not have been recorded.
    assert planned_logs(store, keep_runs=0) == [own]
    assert planned_logs(store, keep_runs=2) == []


def planned_logs(store: Store, *, keep_runs: int) -> list[Path]:
    removals = plan(store.root, keep_runs=keep_runs, with_images=False)
    return [Path(removal.path) for removal in removals if removal.kind == "log"]


def test_a_step_at_work_has_no_leftovers(store: Store) -> None:
    store.training_run("1")
    at_work = store.root / "artifacts" / "Trainer" / "model" / "1"
    at_work.mkdir(parents=True)
    (at_work / "content").write_bytes(b"x")
    found = [
        plan(store.root, keep_runs=1, with_images=False, is_held=held) for held in (False, True)
    ]
    assert [len(removals) for removals in found] == [1, 0]


def test_the_command_only_tells_until_it_is_meant(store: Store, tmp_path: Path) -> None:
    refused = store.training_run("1", blessed=False)
    store.training_run("2")

    def gc(*flags: str) -> dict[str, object]:
        done = vaeline("gc", "--root", str(tmp_path), "--keep-runs", "1", "--json", *flags)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    told = gc()
    assert (told["artifacts"], told["bytes"], told["removed"]) == (5, 5000, False)
    assert store.uri(refused["model"]).is_dir()
    assert gc("--yes")["removed"] is True
    assert not store.uri(refused["model"]).exists()
