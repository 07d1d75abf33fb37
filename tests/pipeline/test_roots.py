"""Roots that were moved, lost files or their metadata, or belong to another user."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ml_metadata import proto

from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from pipeline.config import BeamConfig, PipelineConfig
from pipeline.digits import write_digits
from pipeline.local_runner import RootError, run_pipeline
from pipeline.orchestration.lock import current_run_owner, run_lock
from pipeline.root_doctor import NOTE, OK, WRONG, examine_root
from pipeline.runs import metadata_file
from pipeline.runs.lineage import trace
from pipeline.runs.location import present_uri, replace_root
from pipeline.runs.metadata_file import MetadataError
from pipeline.runs.repair import repair_metadata, survey_root
from pipeline.runs.retention import plan, remove_artifacts
from pipeline.runs.store import latest_run, read_runs
from tests.forked import ROOT as PROJECT
from tests.forked import vaeline
from tests.limits import HANG_SECS
from tests.pipeline.orchestration.stores import FAILED, Store
from trainer.errors import InputError

REFUSED = ("restore it", "--root")


def test_an_unknown_group_stops_a_run_before_its_first_step(tmp_path: Path) -> None:
    write_digits(tmp_path)
    root = tmp_path / "root"
    asked = (f"input.paths={tmp_path / 'digits.zip'}", "push.group=no such group")
    options = [word for value in asked for word in ("--set", value)]
    ended = vaeline("run", "--config", "digits", "--root", str(root), *options)
    assert ended.returncode == 1
    assert "push.group: there is no group 'no such group' on this machine" in ended.stdout
    assert not root.exists()


def test_a_misspelt_option_of_beam_stops_a_run_before_its_first_step(tmp_path: Path) -> None:
    config = PipelineConfig(
        input=InputConfig(paths=("a",)), beam=BeamConfig(args=("--direct_num_worker=2",))
    )
    with pytest.raises(InputError, match=r"beam\.args: .* did you mean --direct_num_workers\?"):
        run_pipeline(config, root=tmp_path / "root", on_step=lambda name, seconds: None)
    assert not (tmp_path / "root").exists()


def test_worker_processes_that_would_never_start_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--runner=FnApiRunner", "--direct_running_mode=multi_processing")
    config = PipelineConfig(input=InputConfig(paths=("a",)), beam=BeamConfig(args=args))
    monkeypatch.setattr(sys, "executable", "/srv/My models/bin/python")
    with pytest.raises(RootError, match=r"beam\.args: .*/srv/My models/bin/python .*ProcessRunner"):
        run_pipeline(config, root=tmp_path / "root", on_step=lambda name, seconds: None)
    assert not (tmp_path / "root").exists()


def make_root(root: Path, *, named: str = "") -> Store:
    """Writes one run as TFX leaves it; `named` is the path that its records give the root."""
    store = Store(root)
    pushed = root / "pushed" / "17"
    pushed.mkdir(parents=True)
    (pushed / "saved_model.pb").write_bytes(b"model")
    (root / "pushed" / "latest").write_text("17\n")
    archives = (f"{root}/archives/digits.zip", "/data/other.zip")
    made = store.training_run("first", pushed=f"{named or root}/pushed/17", archives=archives)
    steps = {"examples": "ImageExampleGen", "model": "Trainer", "model_run": "Trainer",
             "blessing": "ModelGate", "pushed_model": "Pusher"}  # fmt: skip
    for name, number in made.items():
        (artifact,) = store.store.get_artifacts_by_id([number])
        execution = store.store.get_events_by_artifact_ids([number])[0].execution_id
        place = root / "artifacts" / steps[name] / name / str(execution)
        place.parent.mkdir(parents=True, exist_ok=True)
        Path(artifact.uri).rename(place)
        artifact.uri = f"{named}/{place.relative_to(root)}" if named else str(place)
        store.store.put_artifacts([artifact])
    for name in ("saved_model.pb", "variables/variables.index"):
        file = model_folder(root) / "Format-Serving" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return store


def model_folder(root: Path) -> Path:
    (folder,) = (root / "artifacts" / "Trainer" / "model").iterdir()
    return folder


def records(root: Path) -> dict[str, list[Any]]:
    """All rows of the store, by table."""
    with contextlib.closing(sqlite3.connect(root / "metadata.sqlite")) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("Artifact", "ArtifactProperty", "Execution", "ExecutionProperty")
        }


def states(root: Path) -> dict[str, str]:
    """The states of the doctor's findings."""
    return {finding.name: finding.state for finding in examine_root(root)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/root", "/b"),
        ("/a/root/pushed/17", "/b/pushed/17"),
        ("/a/root2/x", "/a/root2/x"),
        ("/a/root copy/x", "/a/root copy/x"),
        ("/mnt/a/root/x", "/mnt/a/root/x"),
        ('{"paths": ["/a/root/x.zip", "/c.zip"]}', '{"paths": ["/b/x.zip", "/c.zip"]}'),
        (json.dumps({"training": json.dumps({"path": "/a/root"})}),
         json.dumps({"training": json.dumps({"path": "/b"})})),
    ],
)  # fmt: skip
def test_only_whole_paths_of_a_root_are_replaced(text: str, expected: str) -> None:
    assert replace_root(text, "/a/root", "/b") == expected


def test_names_outside_ascii_are_found_in_json_within_json() -> None:
    def nested(path: str) -> str:
        return json.dumps({"training": json.dumps({"paths": [f"{path}/x.zip"]}), "folder": path})

    assert replace_root(nested("/a/bücher"), "/a/bücher", "/b/книги") == nested("/b/книги")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/artifacts/Trainer/model/7", "/r/artifacts/Trainer/model/7"),
        ("runs/d/artifacts/Gate/splits/5/value", "/r/artifacts/Gate/splits/5/value"),
        ("artifacts/Trainer/model/7", "/r/artifacts/Trainer/model/7"),
        ("/a/artifacts/artifacts/Trainer/model/7", "/r/artifacts/Trainer/model/7"),
        ("/a/elsewhere", "/a/elsewhere"),
        ("gs://a/artifacts/Trainer/model/7", "gs://a/artifacts/Trainer/model/7"),
    ],
)
def test_an_artifact_is_found_in_the_present_root(uri: str, expected: str) -> None:
    assert present_uri(uri, Path("/r")) == expected


@pytest.mark.parametrize("named", ["", "runs/d"])
def test_a_moved_root_is_read_where_it_is(tmp_path: Path, named: str) -> None:
    make_root(tmp_path / "here", named=named)
    before = records(tmp_path / "here")
    root = (tmp_path / "here").rename(tmp_path / "there")
    run = latest_run(root)
    assert run.folder("Trainer", "model") == model_folder(root)
    assert run.steps["Evaluator"].inputs["model"] == [str(model_folder(root))]
    assert run.pushed == str(root / "pushed" / "17")
    if not named:
        origin = trace(read_runs(root), f"{root}/pushed/17")
        assert origin.archives == [f"{root}/archives/digits.zip", "/data/other.zip"]
    assert records(root) == before, "reading writes nothing"


@pytest.mark.parametrize("named", ["", "runs/d"])
def test_a_run_adapts_the_records_of_a_moved_root(tmp_path: Path, named: str) -> None:
    former = named or str(tmp_path / "here")
    make_root(tmp_path / "here", named=named)
    root = (tmp_path / "here").rename(tmp_path / "there")
    before = records(root)
    (line,) = repair_metadata(root).lines()
    assert former in line
    assert str(root) in line
    after = records(root)
    assert {row[2] for row in after["Artifact"]} == {
        str(path) for path in (root / "artifacts").glob("*/*/*")
    }
    assert after["Execution"] == before["Execution"], "the times of steps stay"
    assert [row[6:] for row in after["Artifact"]] == [row[6:] for row in before["Artifact"]]
    if not named:
        texts = str(after["ArtifactProperty"]) + str(after["ExecutionProperty"])
        assert f"{former}/" not in texts
        assert "/data/other.zip" in texts
    assert repair_metadata(root).lines() == []


def test_a_copied_root_leaves_the_original_alone(tmp_path: Path) -> None:
    store = make_root(tmp_path / "here")
    store.training_run("second", blessed=False)
    store.training_run("third")
    copied = Path(shutil.copytree(tmp_path / "here", tmp_path / "there"))
    removals = plan(copied, keep_runs=1, with_images=False)
    assert removals
    assert all(Path(removal.path).is_relative_to(copied) for removal in removals)
    files = sorted((tmp_path / "here").rglob("*"))
    remove_artifacts(copied, removals)
    assert sorted((tmp_path / "here").rglob("*")) == files
    assert not any(Path(removal.path).exists() for removal in removals)


def test_the_same_images_elsewhere_are_the_same_images(tmp_path: Path) -> None:
    first = write_digits(tmp_path / "a").labelled
    second = Path(shutil.copy(first, tmp_path))
    assert fingerprint(InputConfig(paths=(str(first),))) == fingerprint(
        InputConfig(paths=(str(second),))
    )


@pytest.mark.parametrize("part", ["", "Format-Serving", "Format-Serving/variables"])
def test_a_model_without_files_is_no_baseline(tmp_path: Path, part: str) -> None:
    store = make_root(tmp_path / "root")
    folder = model_folder(store.root)
    (folder / part).rename(tmp_path / "saved")
    assert states(store.root)["models"] == WRONG
    (line,) = repair_metadata(store.root).lines()
    assert line.startswith(f"{folder.relative_to(store.root)}: the files of this blessed model")
    (model,) = [a for a in store.store.get_artifacts() if a.uri == str(folder)]
    assert model.state == proto.Artifact.DELETED, "neither the cache nor a resolver uses it"

    (tmp_path / "saved").rename(folder / part)
    repair_metadata(store.root)
    (model,) = store.store.get_artifacts_by_id([model.id])
    assert model.state == proto.Artifact.LIVE, "it was restored"


def test_outputs_without_files_are_named(tmp_path: Path) -> None:
    store = make_root(tmp_path)
    (examples,) = (tmp_path / "artifacts" / "ImageExampleGen" / "examples").iterdir()
    shutil.rmtree(examples)
    shutil.rmtree(tmp_path / "pushed")
    (line,) = repair_metadata(store.root).lines()
    assert str(examples.relative_to(tmp_path)) in line
    assert str(tmp_path / "pushed" / "17") in line
    assert "runs again" in line


def test_a_pruned_version_is_not_pushed_again(tmp_path: Path) -> None:
    make_root(tmp_path)
    (tmp_path / "pushed" / "17").rename(tmp_path / "pushed" / "18")
    assert repair_metadata(tmp_path).lines() == []


def test_a_refused_export_stays_refused_without_its_files(tmp_path: Path) -> None:
    store = make_root(tmp_path)
    check = store.artifact("InfraBlessing", blessed=0)
    shutil.rmtree(store.uri(check))
    assert repair_metadata(tmp_path).lines() == []


def empty(path: Path) -> None:
    path.write_bytes(b"")


def older(path: Path) -> None:
    path.unlink()
    store = Store(path.parent)
    store.step("first", "ImageExampleGen", state=FAILED)


@pytest.mark.parametrize("lose", [Path.unlink, empty, older])
def test_outputs_without_their_records_stop_a_run(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    make_root(tmp_path)
    lose(tmp_path / "metadata.sqlite")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts").rglob("*")}
    with pytest.raises(MetadataError) as refused:
        repair_metadata(tmp_path)
    line = str(refused.value)
    assert "\n" not in line
    for part in (f"{tmp_path}/metadata.sqlite: does not record artifacts/", *REFUSED):
        assert part in line
    assert states(tmp_path)["metadata"] == WRONG
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_run_on_a_root_without_its_records_ends_in_one_line(tmp_path: Path) -> None:
    archive = write_digits(tmp_path / "archives").labelled
    root = tmp_path / "root"
    make_root(root)
    (root / "metadata.sqlite").unlink()
    done = vaeline("run", "--config", "digits", "--root", "root", "--set",
                   f"input.paths={archive}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"error: {root}/metadata.sqlite: does not record artifacts/")
    assert not (root / "metadata.sqlite").exists()


@pytest.mark.parametrize("begin", [None, b""])
def test_a_root_without_outputs_begins_anew(tmp_path: Path, begin: bytes | None) -> None:
    if begin is not None:
        (tmp_path / "metadata.sqlite").write_bytes(begin)
    assert repair_metadata(tmp_path).lines() == []
    assert states(tmp_path)["metadata"] == OK


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 5 : 4096 * 9] = b"\xff" * 4096 * 4
    path.write_bytes(content)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE photos (id INT)")


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "is not an SQLite database": lambda path: path.write_text("accuracy: 0.98\n" * 100),
    "is damaged or cut short": damaged,
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "is not an SQLite": lambda path: os.truncate(path, 10),
    "is empty": empty,
    "is a folder": folder,
    "is no regular file": pipe,
    "holds no records of runs": foreign,
}


@pytest.mark.parametrize("words", DAMAGE)
def test_a_damaged_store_is_named_with_what_to_do(tmp_path: Path, words: str) -> None:
    make_root(tmp_path)
    DAMAGE[words](tmp_path / "metadata.sqlite")
    for use in (read_runs, repair_metadata):
        with pytest.raises(MetadataError) as refused:
            use(tmp_path)
        line = str(refused.value)
        assert "\n" not in line
        assert line.startswith(f"{tmp_path}/metadata.sqlite: ")
        for part in REFUSED if use is repair_metadata else (words, *REFUSED):
            assert part in line
    assert states(tmp_path)["metadata"] == WRONG


def test_a_locked_store_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_root(tmp_path)
    monkeypatch.setattr(metadata_file, "_WAIT_SECS", 0.05)
    with contextlib.closing(
        sqlite3.connect(tmp_path / "metadata.sqlite", isolation_level=None)
    ) as other:
        other.execute("BEGIN EXCLUSIVE")
        for use in (read_runs, repair_metadata):
            with pytest.raises(MetadataError, match="another program has locked it; end that"):
                use(tmp_path)
        other.execute("ROLLBACK")
        # A reader that never ends keeps a run from writing, and no one from reading.
        other.execute("BEGIN")
        other.execute("SELECT * FROM Artifact").fetchone()
        assert len(read_runs(tmp_path)) == 1
        with pytest.raises(MetadataError, match="another program has locked it; end that"):
            repair_metadata(tmp_path)
    repair_metadata(tmp_path)


@pytest.fixture
def without_rights() -> tuple[str, ...]:
    """Starts a command that may not write what nobody may write."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everything, and setpriv, which takes that from it, is missing")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def test_reading_needs_no_write_access(tmp_path: Path, without_rights: tuple[str, ...]) -> None:
    root = tmp_path / "root"
    make_root(root)
    root = root.rename(tmp_path / "moved")
    with run_lock(root, "a run"):
        pass
    everything = sorted(root.rglob("*"))
    for path in [root, *everything]:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def start(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*without_rights, sys.executable, "-m", "pipeline.cli", *command, "--root", str(root)],
            capture_output=True, text=True, cwd=PROJECT, check=False, timeout=HANG_SECS,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )  # fmt: skip

    try:
        results = [
            start(*command, "--json")
            for command in (("runs", "list"), ("runs", "show"), ("gc",), ("doctor",))
        ]
        refused = start("gc", "--yes")
    finally:
        for path in [root, *everything]:
            path.chmod(0o755)
    listed, shown, gc, doctor = results
    for done in (listed, shown, gc):
        assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(listed.stdout)["runs"][0]["state"] == "finished"
    findings = json.loads(doctor.stdout)["findings"]
    assert (doctor.returncode, findings["access"]["state"]) == (1, WRONG)
    assert findings["artifacts"]["state"] == OK
    assert refused.returncode == 1
    assert "Permission denied" in refused.stdout
    assert sorted(root.rglob("*")) == everything


def test_the_owner_of_a_lock_is_read_without_writing(tmp_path: Path) -> None:
    with run_lock(tmp_path, "a run"):
        lock = tmp_path / ".run.lock"
        lock.chmod(0o444)
        before = lock.stat().st_mtime_ns
        owner = current_run_owner(tmp_path)
        assert owner is not None
        assert owner.what == "a run"
        assert lock.stat().st_mtime_ns == before
    assert current_run_owner(tmp_path) is None
    assert current_run_owner(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_a_store_of_a_killed_writer_needs_someone_who_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_root(tmp_path)
    writer = (
        "import os, signal, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute('PRAGMA cache_size = 1')\n"
        "c.execute('CREATE TABLE padding (content BLOB)')\n"
        "c.commit()\n"
        "c.executemany('INSERT INTO padding VALUES (?)', [(b'x' * 4096,)] * 50)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "metadata.sqlite"
    killed = subprocess.run([sys.executable, "-c", writer, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(MetadataError, match="repair it once with `vaeline runs list`"):
            read_runs(tmp_path)
    assert len(read_runs(tmp_path)) == 1


def test_the_doctor_finds_nothing_wrong_with_a_good_root(tmp_path: Path) -> None:
    make_root(tmp_path / "root")
    assert set(states(tmp_path / "root").values()) == {OK}
    root = (tmp_path / "root").rename(tmp_path / "moved")
    done = vaeline("doctor", "--root", "moved", "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert (done.returncode, result["healthy"], result["root"]) == (0, True, str(root))
    assert result["findings"]["location"]["state"] == NOTE
    assert str(tmp_path / "root") in result["findings"]["location"]["found"]
    assert "nothing needs attention" in done.stderr


def test_the_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    store = make_root(tmp_path)
    store.step("second", "Trainer", state=FAILED)
    left = tmp_path / "artifacts" / "Trainer" / "model_run" / "1" / "events"
    left.parent.mkdir()
    left.write_bytes(b"x")
    (tmp_path / ".run.lock").touch()
    (tmp_path / ".run.json").write_text(
        json.dumps({"user": "ada", "host": "h", "pid": 1, "since": "now", "what": "a run"})
    )
    (tmp_path / "pushed" / "19").mkdir()
    (tmp_path / "pushed" / "latest").write_text("16\n")
    (tmp_path / "pushed" / "aliases").mkdir()
    (tmp_path / "pushed" / "aliases" / "champion").write_text("16\n")
    assert states(tmp_path) == {
        "access": OK, "space": OK, "lock": NOTE, "metadata": NOTE, "leftovers": NOTE,
        "artifacts": OK, "incomplete versions": WRONG, "aliases": WRONG, "latest": WRONG,
    }  # fmt: skip
    done = vaeline("doctor", "--root", str(tmp_path))
    assert done.returncode == 1
    assert "3 of 9 need attention" in done.stdout
    shutil.rmtree(tmp_path / "pushed" / "17")
    (tmp_path / "artifacts" / "Trainer" / "model_run" / "99").mkdir()
    (tmp_path / "artifacts" / "Trainer" / "model_run" / "99" / "x").touch()
    found = states(tmp_path)
    assert (found["pushed"], found["metadata"], found["artifacts"]) == (WRONG, WRONG, WRONG)
    assert states(tmp_path / "nowhere") == {"folder": WRONG}
    assert survey_root(tmp_path).leftovers == (left.parent,)
