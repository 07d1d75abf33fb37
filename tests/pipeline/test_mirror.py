"""Roots in a bucket: two machines, a killed run, a run that lost its lock, removed artifacts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import locks
from pipeline.log_files import CRON_LOG
from pipeline.mirror import Mirror, MirrorError
from pipeline.orchestration.lock import LockedError, current_run_owner, run_lock
from pipeline.runs.repair import survey_root
from pipeline.runs.retention import plan, remove_artifacts
from pipeline.runs.store import latest_run, note_latest_run, read_runs
from pipeline.working_root import fetched_root, root_folder, working_root
from tests import emulators
from tests.forked import vaeline
from tests.pipeline.test_roots import make_root, model_folder
from trainer.errors import InputError
from trainer.storage import files


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    with emulators.bucket(request.param) as address:
        yield address


@pytest.fixture
def root(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a new root; this is the first machine that uses it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    return f"{bucket}/{tmp_path.name}"


@pytest.fixture
def other(root: str, tmp_path: Path) -> Path:
    """The folder of a second machine."""
    folder = tmp_path / "two" / "root"
    folder.mkdir(parents=True)
    return folder


def first_run(root: str) -> Path:
    """Records a run on the first machine."""
    with working_root(root, "a test", say=print) as place:
        make_root(place.folder)
        # The Evaluator's blessing has properties only.
        (blessing,) = (place.folder / "artifacts" / "ModelGate" / "blessing").iterdir()
        (blessing / "content").unlink()
        (place.folder / "config.yaml").write_text("name: digits\n")
        place.publish()
        (place.folder / "logs").mkdir()
        (place.folder / "logs" / "a.log").write_text("done\n")
        (place.folder / "logs" / CRON_LOG).write_text("done\n")
    return place.folder


def names(root: str) -> set[str]:
    return set(files.walk(root)) - {"metadata.sqlite"}


def test_a_root_is_the_same_on_every_machine(root: str, other: Path) -> None:
    one = first_run(root)
    assert "logs/a.log" in names(root)
    assert f"logs/{CRON_LOG}" not in names(root)
    assert not any(name.startswith(("pushed", ".")) for name in names(root))
    # As in a copy of a folder.
    scratch = "artifacts/Trainer/.system/executor_execution/1/a"
    files.write_bytes(f"{root}/{scratch}", b"")
    mirror = Mirror(root, other)
    assert mirror.fetch(for_writing=True) == len(names(root) - {scratch})
    # Its records name the folder that it has now, and nothing is missing there.
    survey = survey_root(other)
    assert (survey.former, survey.unrecorded, survey.leftovers) == ((), (), ())
    assert {artifact.kind for artifact in survey.lost} == {"PushedModel"}, "pushed/ is not mirrored"
    run = latest_run(other)
    assert run.folder("Trainer", "model") == model_folder(other)
    before = files.stat(f"{root}/metadata.sqlite").version
    mirror.publish(whole=True)
    assert files.stat(f"{root}/metadata.sqlite").version == before, "reading changes nothing"
    (model_folder(other) / "content").write_bytes(b"changed")
    note_latest_run(other, {"metric:accuracy": 0.5})
    mirror.publish()
    # The first machine gets what has changed, and only that.
    assert Mirror(root, one).fetch(for_writing=True) == 1
    assert (model_folder(one) / "content").read_bytes() == b"changed"
    assert Mirror(root, one).fetch(for_writing=True) == 0
    run = latest_run(one)
    assert (run.folder("Trainer", "model"), run.metrics) == (model_folder(one), {"accuracy": 0.5})


def test_what_a_killed_run_left_is_resumed_here_and_ignored_elsewhere(
    root: str, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = first_run(root)
    committed = names(root)
    mirror = Mirror(root, one)
    mirror.fetch(for_writing=True)
    checkpoint = one / "artifacts" / "training" / "trainer-1" / "checkpoints" / "1"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    output = one / "artifacts" / "Trainer" / "model" / "99"
    output.mkdir()
    (output / "saved_model.pb").write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "_commit", lambda *_: 1 / 0)
        mirror._state.digest = ""
        with pytest.raises(ZeroDivisionError):
            mirror.publish(whole=True)
    assert "artifacts/Trainer/model/99/saved_model.pb" in names(root)
    assert Mirror(root, one).fetch(for_writing=False) == 0
    assert checkpoint.exists()
    elsewhere = Mirror(root, other)
    elsewhere.fetch(for_writing=False)
    assert not (other / output.relative_to(one)).exists()
    elsewhere._state.metadata = ""
    elsewhere.fetch(for_writing=True)
    assert names(root) == committed | {str(checkpoint.relative_to(one))}


def test_a_run_that_lost_its_lock_writes_nothing(root: str, other: Path) -> None:
    one = first_run(root)
    late, next_one = Mirror(root, one), Mirror(root, other)
    late.fetch(for_writing=True)
    next_one.fetch(for_writing=True)
    make_root(other / "more")
    (other / "more" / "metadata.sqlite").rename(other / "metadata.sqlite")
    next_one.publish()
    before = {name: files.stat(f"{root}/{name}").version for name in files.walk(root)}
    (model_folder(one) / "content").write_bytes(b"late")
    with pytest.raises(MirrorError, match=f"^{root}: another run has written there while"):
        late.publish()
    assert {name: files.stat(f"{root}/{name}").version for name in files.walk(root)} == before


def test_a_root_takes_one_run_at_a_time(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_HEARTBEAT_SECS", 0.1)
    with (
        working_root(root, "the first run", say=print) as place,
        pytest.raises(LockedError, match=rf"^{root} is in use: the first run by .*; wait, or stop"),
        working_root(root, "the second run", say=print),
    ):
        pass
    assert not files.exists(f"{root}/.run.lock")
    with run_lock(place.folder, "a test"):
        assert current_run_owner(place.folder) is not None


def test_what_a_failed_run_did_is_published(root: str, other: Path) -> None:
    def fail() -> None:
        with working_root(root, "a test", say=print) as place:
            make_root(place.folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    Mirror(root, other).fetch(for_writing=False)
    assert len(read_runs(other)) == 1


def test_a_root_without_its_store_is_refused_and_an_emptied_one_begins_anew(root: str) -> None:
    folder = first_run(root)
    files.remove(f"{root}/metadata.sqlite")
    message = f"^{root}: holds outputs but no metadata.sqlite; restore it, or give a new address"
    with pytest.raises(MirrorError, match=message), working_root(root, "a test", say=print):
        pass
    assert (folder / "metadata.sqlite").exists(), "the only copy is kept"
    files.remove(root)
    # Cron's line writes it before, during and after the run, and on this machine only.
    (folder / "logs" / CRON_LOG).write_text("2026-11-30\n")
    with working_root(root, "a test", say=print) as place:
        assert (place.folder / "logs" / CRON_LOG).read_text() == "2026-11-30\n"
        assert not (place.folder / "metadata.sqlite").exists()
        assert not list((place.folder / "artifacts").rglob("*"))


def test_removed_artifacts_are_removed_from_the_bucket(root: str) -> None:
    first_run(root)
    with working_root(root, "vaeline gc", say=print) as place:
        make = plan(place.folder, keep_runs=0, with_images=True)
        assert make
        remove_artifacts(place.folder, make)
    removed = {str(Path(each.path).relative_to(place.folder)) for each in make}
    assert not any(name.startswith(tuple(removed)) for name in names(root))
    assert any(name.startswith("artifacts/") for name in names(root))


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_commands_read_a_root_in_a_bucket(root: str) -> None:
    first_run(root)
    done = vaeline("runs", "list", "--root", root, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["root"], [run["run"] for run in result["runs"]]) == (root, ["first"])
    shown = vaeline("gc", "--root", root, "--keep-runs", "0", "--json")
    assert json.loads(shown.stdout)["removed"] is False
    model = f"{fetched_root(root)}/pushed/17"
    assert json.loads(vaeline("runs", "lineage", model, "--root", root, "--json").stdout)
    refused = vaeline("doctor", "--root", root)
    assert "this command needs a folder" in refused.stderr
    assert "expected a folder, or gs://" in vaeline("run", "--root", "ftp://x/y").stderr
    assert not list(Path.cwd().glob("*:"))


def test_roots_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    folders = {root_folder(address) for address in ("s3://a/b", "s3://a-b", "gs://a/b")}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {Path("/cache/vaeline/roots")}
    assert root_folder("/a/b") == Path("/a/b")


def test_an_account_without_a_home_learns_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(InputError, match=r"Not a directory; name .* XDG_CACHE_HOME"):
        fetched_root("gs://bucket/root")
