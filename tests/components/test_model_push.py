"""Pushed versions: whole or absent under kill -9, numbered upwards, rolled back and pruned."""

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.model_push.management import open_store, prunable, roll_back, served_version
from components.model_push.record import PushRecord, create_record
from components.model_push.versions import RECORD_FILE, VersionStore
from tests import emulators
from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.failures import OutputError

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "saved_model.pb": b"graph",
    "fingerprint.pb": b"print",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"weights" * 200_000,
    "assets.extra/model.json": json.dumps(
        {"name": "digits", "digests": {"model": "abc"}, "images": {"train": 900}}
    ).encode(),
    "assets.extra/config.yaml": b"name: digits\ninput: {paths: digits.zip}\n",
}

PUSH = """
import importlib, os, sys
from pathlib import Path
from components.model_push.management import open_store
from components.model_push.record import PushRecord
source, place, *clients = sys.argv[1:]
for client in clients:
    importlib.import_module(client)
for _ in sys.stdin:
    # A fork has only the imports in common with the one before it.
    child = os.fork()
    if child == 0:
        store = open_store(place)
        store.latest()  # connects
        print(os.getpid(), flush=True)
        while True:
            store.publish(Path(source), PushRecord())
    os.waitpid(child, 0)
    print("ended", flush=True)
"""
"""Starts a process that pushes without end for each line that it reads."""


def model(folder: Path, mark: str = "") -> Path:
    """Writes the files of a SavedModel; `mark` tells one from another."""
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "saved_model.pb":
            content += mark.encode()
        path.write_bytes(content.replace(b'"abc"', f'"abc{mark}"'.encode()))
    return folder


JUDGEMENTS = itertools.count()


def push(store: VersionStore, folder: Path, mark: str = "") -> int:
    """Pushes a model that was judged once more, so that it is a push of its own."""
    source = model(folder / f"model-{mark}", mark)
    metrics = {"accuracy": 0.9, "example_count": float(next(JUDGEMENTS))}
    return store.publish(source, create_record(source, user="ada", metrics=metrics)).number


def what_tf_serving_serves(folder: Path) -> bytes:
    """Reads the graph of the highest integer, as TF Serving's default policy picks it."""
    numbers = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
    return (folder / str(max(numbers)) / "saved_model.pb").read_bytes()


def marks(store: VersionStore, folder: Path) -> tuple[bytes, int | None, int]:
    return what_tf_serving_serves(folder), store.latest(), served_version(store).number


@pytest.fixture
def gcs() -> Iterator[str]:
    """A bucket of a real emulator."""
    with emulators.cloud_storage() as address, emulators.reached_at(address) as client:
        client.create_bucket("models")
        yield "gs://models/team/digits"


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    with emulators.s3() as client:
        client.create_bucket(Bucket="models")
        # The server's buckets last as long as this process.
        yield f"s3://models/{tmp_path.name}"


@pytest.fixture(params=["gcs", "s3"])
def bucket(request: pytest.FixtureRequest) -> str:
    """A prefix in each kind of store."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(params=["folder", "gcs", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "pushed")
    return str(request.getfixturevalue(request.param))


def content_of(version: Any) -> dict[str, bytes]:
    """Reads every file of a version, wherever it lies."""
    return {name: files.read_bytes(f"{version.path}/{name}") for name in files.walk(version.path)}


def test_a_push_copies_every_file_and_records_where_it_came_from(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "pushed"))
    number = push(store, tmp_path)
    (version,) = store.versions()
    content = content_of(version)
    record = json.loads(content.pop(RECORD_FILE))
    assert content == FILES
    assert abs(number - time.time()) < 60
    assert record["version"] == number == store.latest()
    assert record["user"] == "ada"
    assert record["sources"] == ["digits.zip"]
    assert record["digests"] == {"model": "abc"}
    assert record["metrics"]["accuracy"] == 0.9
    assert record["replaced"] is None
    assert version.complete
    # TF Serving takes every integer for a version.
    others = {path.name for path in (tmp_path / "pushed").iterdir()} - {str(number)}
    assert others == {"latest", ".lock"}


def test_pushes_at_the_same_time_get_numbers_of_their_own(tmp_path: Path) -> None:
    source = model(tmp_path / "model")

    def publish(_: int) -> int:
        return open_store(str(tmp_path / "pushed")).publish(source, PushRecord()).number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(publish, range(16)))
    assert len(set(numbers)) == 16
    store = open_store(str(tmp_path / "pushed"))
    assert [version.number for version in store.complete()] == sorted(numbers)
    replaced = [version.record.replaced for version in store.complete()]
    assert replaced == [None, *sorted(numbers)[:-1]]
    assert store.latest() == max(numbers)


def test_a_number_is_never_given_twice_even_by_a_clock_that_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / "pushed"))
    first = push(store, tmp_path)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    second = push(store, tmp_path)
    assert second == first + 1
    # Someone deletes the newest by hand.
    (tmp_path / "pushed" / str(second)).rename(tmp_path / "gone")
    assert push(store, tmp_path) == second + 1


def test_a_push_that_is_started_again_after_it_published_publishes_nothing(
    tmp_path: Path, place: str
) -> None:
    store = open_store(place)
    source = model(tmp_path / "model")
    record = create_record(source, metrics={"accuracy": 0.9})
    first = store.publish(source, record)
    # Killed before it pointed to its version, and started again on another machine.
    files.remove(f"{place}/latest")
    later = replace(record, pushed_at="2099-01-01T00:00:00Z", host="elsewhere")
    assert store.publish(source, later) == first
    assert store.versions() == [first]
    assert store.latest() == first.number
    # Judged anew, or after another model, it is a push of its own.
    judged = store.publish(source, replace(record, metrics={"accuracy": 0.8}))
    assert store.publish(source, record).number > judged.number > first.number


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "gcs"], indirect=True)
def test_killed_at_any_moment_a_push_leaves_whole_versions_only(tmp_path: Path, place: str) -> None:
    is_folder = not files.is_remote(place)
    kills = 20 if is_folder else 6
    source = model(tmp_path / "model")
    draw = random.Random(5)
    store = open_store(place)
    begin = time.perf_counter()
    for _ in range(3):
        store.publish(source, PushRecord())
    longest = time.perf_counter() - begin
    unfinished = 0
    # Imported before it forks.
    clients = [] if is_folder else ["google.cloud.storage"]
    with subprocess.Popen(
        [sys.executable, "-c", PUSH, str(source), place, *clients],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    ) as starter:
        whole: list[Any] = []
        for attempt in range(kills):
            assert starter.stdin is not None
            assert starter.stdout is not None
            print(file=starter.stdin, flush=True)
            process = int(starter.stdout.readline())
            time.sleep(draw.uniform(0, longest))
            if attempt % 5 == 4:
                # A push comes to its end, also where pushes take much longer than just now.
                known = store.complete()
                while store.complete() == known:
                    time.sleep(0.01)
            os.kill(process, signal.SIGKILL)
            assert starter.stdout.readline() == "ended\n"
            whole = store.complete()
            # The pointer is never ahead of the versions, and at most one push behind.
            assert store.latest() in [None, *(version.number for version in whole)]
            if is_folder:
                assert whole == store.versions()
                unfinished += any((tmp_path / "pushed").glob(".tmp-*"))
    assert len(whole) > 5, "no push came to its end"
    for version in whole:
        content = content_of(version)
        assert json.loads(content.pop(RECORD_FILE))["version"] == version.number
        assert content == FILES
    last = push(store, tmp_path, "last")
    assert store.latest() == last == served_version(store).number
    if is_folder:
        assert unfinished, "no kill came in the middle of a push"
        assert not list((tmp_path / "pushed").glob(".tmp-*"))


@pytest.mark.slow
def test_a_bucket_gets_the_model_file_last_and_loses_it_first(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.model_push import cloud_store

    seen: list[list[str]] = []
    original = files.copy

    def copy(source: str, target: str) -> None:
        original(source, target)
        if files.is_remote(source) and target.endswith("saved_model.pb"):
            seen.append(list(files.walk(target.removesuffix("/saved_model.pb"))))

    store = open_store(bucket)
    with monkeypatch.context() as patch:
        patch.setattr(files, "copy", copy)
        number = push(store, tmp_path)
    assert sorted(seen[0]) == sorted([*FILES, RECORD_FILE])
    # A push that died while it copied, an hour and more ago, is no version and is cleaned.
    files.write_bytes(f"{bucket}/{number + 1}/variables/variables.index", b"x")
    files.write_bytes(f"{bucket}/.tmp-{number + 2}/fingerprint.pb", b"x")
    assert [version.complete for version in store.versions()] == [True, False]
    assert store.latest() == number == served_version(store).number
    monkeypatch.setattr(cloud_store, "_STALE_SECS", -1)
    second = push(store, tmp_path, "second")
    assert second > number + 2
    assert [version.number for version in store.versions()] == [number, second]
    assert not any(".tmp-" in name for name in files.walk(bucket))


@pytest.mark.slow
def test_of_pushes_to_one_bucket_each_gets_a_number(bucket: str, tmp_path: Path) -> None:
    source = model(tmp_path / "model")

    def publish(_: int) -> int:
        return open_store(bucket).publish(source, PushRecord()).number

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(publish, range(4)))
    assert len(set(numbers)) == 4
    store = open_store(bucket)
    assert [version.number for version in store.versions() if version.complete] == sorted(numbers)
    assert store.latest() == max(numbers)


@pytest.mark.slow
def test_rollback_serves_an_earlier_model_and_prune_keeps_what_is_served(
    tmp_path: Path, place: str
) -> None:
    store = open_store(place)
    one, two, three = (push(store, tmp_path, mark) for mark in ("1", "2", "3"))

    def graph() -> bytes:
        return content_of(served_version(store))["saved_model.pb"]

    assert graph() == b"graph3"
    back = roll_back(store, user="grace")
    assert graph() == b"graph2"
    assert store.latest() == back.number == served_version(store).number > three
    assert (back.record.copy_of, back.record.rolled_back_from) == (two, three)
    assert (back.record.user, back.record.metrics) == ("grace", store.find(two).record.metrics)
    assert store.find(two).record.user == "ada", "the old record was written over"
    # Once more: to the model before the one that came back, not to the bad one.
    again = roll_back(store)
    assert graph() == b"graph1"
    assert again.record.copy_of == one
    with pytest.raises(InputError, match="no other model was served before"):
        roll_back(store)
    with pytest.raises(InputError, match=f"there is no version 5; there is {one}, {two}"):
        roll_back(store, to=5)
    forward = roll_back(store, to=three)
    assert graph() == b"graph3"
    with pytest.raises(InputError, match="is the model of"):
        roll_back(store, to=three)
    with pytest.raises(InputError, match="at least one version"):
        prunable(store, keep=0)
    doomed = [version.number for version in prunable(store, keep=2)]
    assert doomed == [one, two, three, back.number]
    store.remove(doomed)
    assert [version.number for version in store.versions()] == [again.number, forward.number]
    assert graph() == b"graph3"
    assert content_of(store.find(again.number))["saved_model.pb"] == b"graph1"
    if not files.is_remote(place):
        assert marks(store, tmp_path / "pushed") == (b"graph3", forward.number, forward.number)


def test_a_model_that_was_pushed_twice_is_one_model_to_a_rollback(tmp_path: Path) -> None:
    """As after a changed bound of the gate, which judges and pushes the same model again."""
    store = open_store(str(tmp_path / "pushed"))
    one, two, again = (push(store, tmp_path, mark) for mark in ("1", "2", "2"))
    with pytest.raises(InputError, match=f"version {again} is the model of {two} already"):
        roll_back(store, to=two)
    assert roll_back(store).record.copy_of == one
    # A model that came back after another one follows that other one.
    push(store, tmp_path, "3")
    push(store, tmp_path, "2")
    assert content_of(roll_back(store))["saved_model.pb"] == b"graph3"


def test_bulk_jobs_take_what_is_served(tmp_path: Path) -> None:
    from components.bulk_inference.model_card import find_model

    store = open_store(str(tmp_path / "pushed"))
    push(store, tmp_path, "1")
    push(store, tmp_path, "2")
    back = roll_back(store)
    assert find_model(str(tmp_path / "pushed")) == back.path


def test_versions_of_other_makers_are_listed(tmp_path: Path) -> None:
    model(tmp_path / "pushed" / "7")
    store = open_store(str(tmp_path / "pushed"))
    (version,) = store.versions()
    assert (version.number, version.complete, version.record) == (7, True, PushRecord())
    assert version.size == sum(map(len, FILES.values()))
    # A damaged record stands in nobody's way.
    (tmp_path / "pushed" / "7" / RECORD_FILE).write_text("{")
    # A pointer that someone left behind is mended by the next push.
    assert store.latest() is None
    number = push(store, tmp_path)
    assert store.find(number).record.replaced == 7


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://bucket/models", "^ftp://bucket/models: ftp:// is not supported"),
        ("/proc/vaeline", "give a folder that you may write"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(
    tmp_path: Path, address: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        push(open_store(address), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / "pushed"))

    def fail(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(OutputError, match="cannot be written: No space left on device; make room"):
        push(store, tmp_path)
    assert not list((tmp_path / "pushed").glob(".tmp-*"))
    assert store.versions() == []


def test_what_is_no_model_is_not_pushed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "pushed"))
    with pytest.raises(InputError, match="nothing to push"):
        store.publish(tmp_path, PushRecord())
    assert store.versions() == []
    with pytest.raises(InputError, match="there is no pushed model"):
        served_version(store)
