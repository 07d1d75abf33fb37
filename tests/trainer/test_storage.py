"""The functions of `trainer/storage/files.py` on disk and on a server of objects."""

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import archives, emulators
from trainer.storage import failures, files, google_store, object_store, s3_store
from trainer.storage.config import StorageConfig

TREE = {"a.png": b"1", "a/b/1": b"22", "a/b.x": b"333", "a/2": b"", "c/ö": b"4444"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with emulators.cloud_storage() as address, emulators.reached_at(address) as client:
        client.create_bucket("files")
        yield "gs://files"


@pytest.fixture(scope="module")
def s3_bucket() -> Iterator[str]:
    with emulators.s3() as client:
        client.create_bucket(Bucket="files")
        yield "s3://files"


@pytest.fixture(scope="module")
def minio_bucket(s3_bucket: str) -> str:
    return s3_bucket.replace("s3://", "minio://")


@pytest.fixture(params=["bucket", "s3_bucket", "minio_bucket"])
def store(request: pytest.FixtureRequest) -> str:
    """A bucket in each kind of store."""
    return str(request.getfixturevalue(request.param))


# Of the two names of one server, where a request takes long.
one_of_each = pytest.mark.parametrize("store", ["bucket", "minio_bucket"], indirect=True)


@pytest.fixture(params=["folder", "bucket", "s3_bucket", "minio_bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "place")
    return f"{request.getfixturevalue(request.param)}/{tmp_path.name}"


def fill(place: str) -> str:
    for name, content in TREE.items():
        files.write_bytes(f"{place}/{name}", content)
    return place


def content_of(folder: str) -> dict[str, bytes]:
    names = list(files.walk(folder))
    contents = files.read_each(f"{folder}/{name}" for name in names)
    return dict(zip(names, contents, strict=True))


def test_files_are_listed_alike_in_every_place(place: str) -> None:
    assert list(files.walk(place)) == files.list_names(place) == []
    fill(place)
    assert content_of(place) == TREE
    assert list(files.walk(place)) == sorted(TREE)
    assert files.list_names(place) == ["a", "a.png", "c"]
    assert files.matching(f"{place}/a*") == [f"{place}/a", f"{place}/a.png"]
    assert files.matching(f"{place}/**/1") == [f"{place}/a/b/1"]
    assert files.matching(f"{place}/c/") == [f"{place}/c"]
    assert files.matching(f"{place}/d*") == []
    assert files.matching(f"{place}/[!b-z].[o-q]ng") == [f"{place}/a.png"]
    assert files.matching(f"{place}/[z-a]*") == files.matching(f"{place}/a.pn") == []
    files.write_bytes(f"{place}/x[1]/[!].png", b"1")
    assert files.matching(f"{place}/x[1]/[!].png") == [f"{place}/x[1]/[!].png"]


@pytest.mark.parametrize("path", ["gs://", "gs:///x", "s3://", "minio:///x/*.zip"])
def test_an_address_without_a_bucket_is_refused(path: str) -> None:
    with pytest.raises(failures.StorageError, match="names no bucket; give the address as"):
        files.matching(path)


@pytest.mark.parametrize("path", ["gs://.tmp-probe", "gs://saved_model.pb", "s3://_lock"])
def test_a_name_joined_to_an_address_without_a_bucket_is_refused(path: str) -> None:
    with pytest.raises(failures.StorageError, match=r"names no (bucket|object in a bucket); give"):
        files.exists(path)


def test_a_file_is_read_in_parts_and_as_a_whole(place: str) -> None:
    path = f"{fill(place)}/a/b.x"
    assert files.read_bytes(path) == b"333"
    assert files.read_bytes(path, limit=2) == b"33"
    file = files.open_ranged(path)
    assert (file.size, file.read(1, 9), file.read(3, 9)) == (3, b"33", b"")
    file.close()
    with files.open_stream(path) as stream:
        assert stream.read() == b"333"
    assert files.read_bytes(f"{place}/a/2") == b""


def test_one_reading_never_joins_pieces_of_two_versions(store: str, tmp_path: Path) -> None:
    path = f"{store}/{tmp_path.name}/a.tar"
    files.write_bytes(path, b"1111")
    file = files.open_ranged(path)
    assert file.read(0, 2) == b"11"
    for later in (b"2222", b"2"):
        files.write_bytes(path, later)
        with pytest.raises(failures.ConflictError, match=r"a\.tar: has changed since it was"):
            file.read(2, 2)
    assert files.read_bytes(path) == b"2"


def test_facts_change_with_the_content(place: str) -> None:
    path = f"{fill(place)}/a.png"
    before = files.stat(path)
    assert before.size == 1
    files.write_bytes(path, b"2")
    after = files.stat(path)
    assert after.version != before.version
    assert after.modified >= before.modified
    assert (files.exists(path), files.exists(f"{place}/b")) == (True, False)
    assert (files.is_folder(f"{place}/c"), files.is_folder(f"{place}/b")) == (True, False)


def test_moves_and_removals_can_be_repeated(place: str) -> None:
    fill(place)
    for _ in range(2):
        files.move(f"{place}/a.png", f"{place}/d/a.png")
    for _ in range(2):
        files.remove(f"{place}/a")
    assert content_of(place) == {"c/ö": b"4444", "d/a.png": b"1"}
    files.remove(place)
    assert list(files.walk(place)) == []


def test_copies_cross_places(store: str, tmp_path: Path) -> None:
    local, remote = fill(str(tmp_path / "local")), f"{store}/{tmp_path.name}"
    files.copy_tree(local, f"{remote}/one")
    files.copy_tree(f"{remote}/one", f"{remote}/two")
    with files.local_copy(f"{remote}/two") as copy:
        assert content_of(copy) == content_of(f"{remote}/two") == TREE
    assert not os.path.exists(copy)
    with files.local_copy(local) as same:
        assert same == local


def test_a_write_that_fails_leaves_nothing(place: str) -> None:
    def write() -> None:
        with files.writing(f"{place}/x") as file:
            file.write(b"half")
            raise KeyError("no")

    with pytest.raises(KeyError):
        write()
    assert list(files.walk(place)) == []


def test_of_conditional_writes_one_wins(store: str, tmp_path: Path) -> None:
    path = f"{store}/{tmp_path.name}/lock"
    first = files.write_if(path, b"1", version="")
    with pytest.raises(failures.ConflictError):
        files.write_if(path, b"2", version="")
    second = files.write_if(path, b"2", version=first)
    with pytest.raises(FileExistsError):
        files.write_if(path, b"3", version=first)
    assert (files.read_bytes(path), files.stat(path).version) == (b"2", second)
    files.remove(path)
    with pytest.raises(failures.ConflictError):
        files.write_if(path, b"4", version=second)
    with pytest.raises(failures.StorageError, match="only objects in a store will do"):
        files.write_if(str(tmp_path / "x"), b"", version="")


def test_missing_files_are_one_error_everywhere(place: str) -> None:
    for request in (files.stat, files.read_bytes, files.open_ranged, files.open_stream):
        with pytest.raises(FileNotFoundError, match=f"^{place}/none: no such ") as caught:
            request(f"{place}/none")
        error = pickle.loads(pickle.dumps(caught.value))
        assert isinstance(error, failures.MissingError)
        assert str(error) == str(caught.value)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: files.read_bytes("ftp://x/y"), "^ftp://x/y: ftp:// is not supported; give a l"),
        (lambda: files.write_bytes("ftp://x/y", b""), "ftp:// is not supported"),
        (lambda: files.write_bytes("gs://no-such/y", b""), "^gs://no-such/y: no such bucket$"),
        (lambda: list(files.walk("gs://no-such/y")), "^gs://no-such/y: no such bucket$"),
        (lambda: files.copy("gs://files/x", "gs://files/y"), "^gs://files/x: no such bucket or"),
        (lambda: files.write_bytes("s3://no-such/y", b""), "^s3://no-such/y: no such bucket"),
        (lambda: list(files.walk("s3://no-such/y")), "^s3://no-such/y: no such bucket$"),
        (lambda: files.copy("s3://files/x", "s3://files/y"), "^s3://files/x: no such bucket or"),
    ],
)
def test_what_cannot_be_reached_is_one_line(
    bucket: str, s3_bucket: str, request_: Callable[[], Any], message: str
) -> None:
    with pytest.raises(failures.StorageError, match=message):
        request_()


def test_minio_is_another_name_of_s3_at_a_server_of_ones_own(
    s3_bucket: str, minio_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_bytes(f"{minio_bucket}/names/a", b"1")
    assert files.read_bytes(f"{s3_bucket}/names/a") == b"1"
    # Within the store: the server copies, and no content comes here.
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_stream", None)
        files.copy(f"{s3_bucket}/names/a", f"{minio_bucket}/names/b")
    assert files.matching(f"{minio_bucket}/names/*") == [f"{minio_bucket}/names/{n}" for n in "ab"]
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL")
        s3_store.s3_client.cache_clear()
        with pytest.raises(failures.StorageError, match=r"/a: no server .*; set AWS_ENDPOINT_URL"):
            files.read_bytes(f"{minio_bucket}/names/a")
    s3_store.s3_client.cache_clear()


def test_an_emulator_without_a_scheme_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:4443")
    google_store.google_client.cache_clear()
    with pytest.raises(failures.StorageError, match=r"HOST=localhost:4443 .* http://HOST:PORT$"):
        files.exists("gs://images/a.zip")


def test_requests_are_repeated_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.api_core import exceptions

    monkeypatch.setattr(object_store, "_FIRST_PAUSE_SECS", 0.001)
    answers: list[Exception | bytes] = []

    def get(*_: Any) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(google_store.GoogleStore, "get", get)
    access = StorageConfig(attempts=3)
    busy, forbidden = exceptions.ServiceUnavailable("busy"), exceptions.Forbidden("no")
    answers[:] = [busy, ConnectionResetError(), b"x"]
    assert files.read_bytes("gs://b/x", access) == b"x"
    answers[:] = [busy, busy, busy, b"x"]
    with pytest.raises(failures.StorageError, match=r"in 3 attempts; .* again .503 busy.$"):
        files.read_bytes("gs://b/x", access)
    answers[:] = [forbidden, b"x"]
    with pytest.raises(failures.StorageError, match="grant Storage Object Viewer"):
        files.read_bytes("gs://b/x", access)
    assert answers == [b"x"], "a permanent error is not repeated"


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "trainer.storage.s3_store")
    with pytest.raises(failures.StorageError, match=r"^s3://b/x: boto3 is not installed; .*: pip "):
        files.read_bytes("s3://b/x")


def test_a_store_that_does_not_answer_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.bulk_inference.output.ledger import IDENTITY, Ledger
    from trainer.optimization.checkpoints import Checkpoints

    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), identity="a", keep=1)
    checkpoints.save(1, [np.ones(2)], {})
    ledger = Ledger(str(tmp_path))
    ledger.write(IDENTITY, b'{"a": 1}')

    def fail(path: str) -> bytes:
        raise failures.StorageError(path, "did not answer")

    monkeypatch.setattr(files, "read_bytes", fail)
    with pytest.raises(failures.StorageError):
        checkpoints.restore()
    with pytest.raises(failures.StorageError):
        ledger.read_identity()


@one_of_each
@pytest.mark.parametrize("name", ["tree", "day-*/a.zip", "a.tar"])
def test_images_are_read_alike_from_every_place(store: str, tmp_path: Path, name: str) -> None:
    from components.image_sources.config import InputConfig, UnitsConfig
    from components.image_sources.fingerprint import fingerprint
    from components.image_sources.sources import ImageSource

    images = archives.classes(30)
    (tmp_path / "in" / "day-1").mkdir(parents=True)
    archives.write(tmp_path / "in" / "tree", images)
    archives.write(tmp_path / "in" / "day-1" / "a.zip", images)
    archives.write(tmp_path / "in" / "a.tar", images)
    files.copy_tree(str(tmp_path / "in"), f"{store}/{tmp_path.name}/in")

    def read(folder: str) -> dict[str, bytes]:
        config = InputConfig(paths=(f"{folder}/{name}",), units=UnitsConfig(members=20))
        source = ImageSource(config)
        batches = [batch for unit in source.units() for batch in source.read(unit)]
        assert fingerprint(config) == fingerprint(config)
        return {
            key: data
            for batch in batches
            for key, data in zip(batch.names, batch.data, strict=True)
        }

    assert read(f"{store}/{tmp_path.name}/in") == read(str(tmp_path / "in")) == images


def ingested(archive: Path, output: str) -> dict[str, bytes]:
    """What an ingest writes there, by name."""
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from components.image_example_gen.ingest import ingest
    from components.image_sources.config import InputConfig, UnitsConfig

    config = InputConfig(paths=(str(archive),), units=UnitsConfig(members=20))
    ingest(config, output, lambda: beam.Pipeline(FnApiRunner()), processes=0)
    return content_of(output)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """An archive and what its ingest writes into a folder."""
    folder = tmp_path_factory.mktemp("on_disk")
    images = archives.classes(30) | {"cat/copy.png": archives.png(3), "cat/bad.png": b"x"}
    archive = archives.write(folder / "a.zip", images)
    return archive, ingested(archive, str(folder / "out"))


@one_of_each
def test_ingest_into_a_bucket_writes_what_it_writes_on_disk(
    store: str, tmp_path: Path, on_disk: tuple[Path, dict[str, bytes]]
) -> None:
    archive, expected = on_disk
    local = dict(expected)
    remote = ingested(archive, f"{store}/{tmp_path.name}/out")
    assert [local.pop("account.json"), remote.pop("account.json")]
    assert remote == local
    assert "rejects.parquet" in local
