"""Cloud Storage through a real emulator server, with a proxy that drops and refuses requests."""

import gzip
import http.client
import http.server
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.image_example_gen.ingest import ingest
from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.sources import ImageSource
from components.image_sources.spans import resolve
from tests import archives, emulators
from trainer.errors import InputError
from trainer.storage import files, google_store, object_store
from trainer.storage.config import StorageConfig

pytestmark = pytest.mark.slow

IMAGES = 600
STORAGE = StorageConfig(attempts=4, timeout_secs=20)


class FlakyProxy(http.server.ThreadingHTTPServer):
    """Hands requests on to the emulator, and sabotages every third one it is told to."""

    daemon_threads = True
    client: Any

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = port
        self.faults: list[str] = []
        self.met: list[str] = []
        self.requests = 0
        self.guard = threading.Lock()

    def next_fault(self) -> str:
        with self.guard:
            self.requests += 1
            if self.faults and self.requests % 3 == 0:
                fault = self.faults.pop(0)
                self.met.append(fault)
                return fault
            return ""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FlakyProxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        fault = self.server.next_fault()
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.target)
        headers = {k: v for k, v in self.headers.items() if k.lower() == "range"}
        upstream.request("GET", self.path, headers=headers)
        response = upstream.getresponse()
        body = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "drop":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[FlakyProxy]:
    """An emulator with a bucket of images, behind the proxy."""
    with emulators.cloud_storage() as address, pytest.MonkeyPatch.context() as patch:
        flaky = FlakyProxy(int(address.rpartition(":")[2]))
        thread = threading.Thread(target=flaky.serve_forever, daemon=True)
        thread.start()
        with emulators.reached_at(address) as client:
            bucket = client.create_bucket("images")
        flaky.client = client
        tree = archives.classes(IMAGES // 3)
        objects = {f"tree/{name}": data for name, data in tree.items()} | {"tree/empty.png": b""}
        objects["day-1/all.zip"] = archives.zip_bytes(tree)
        objects["day-2/all.tar"] = archives.tar_bytes(tree)
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(lambda name: bucket.blob(name).upload_from_string(objects[name]), objects)
            )
        patch.setattr(object_store, "_FIRST_PAUSE_SECS", 0.01)
        with emulators.reached_at(f"http://127.0.0.1:{flaky.server_port}"):
            yield flaky
        flaky.shutdown()
        thread.join()


def config_of(**values: Any) -> InputConfig:
    return InputConfig.model_validate({"storage": STORAGE.model_dump(), **values})


def names_of(config: InputConfig) -> list[str]:
    source = ImageSource(config)
    return [name for unit in source.units() for batch in source.read(unit) for name in batch.names]


@pytest.mark.parametrize("path", ["gs://images/tree", "gs://images/day-1/*.zip"])
def test_ingest_with_faults_in_the_middle(proxy: FlakyProxy, tmp_path: Path, path: str) -> None:
    proxy.faults, proxy.met = ["503", "drop", "503", "drop"], []
    account = ingest(
        config_of(paths=path, units={"members": 200, "batch": 60}),
        str(tmp_path / "out"),
        lambda: beam.Pipeline(FnApiRunner()),
    )
    assert account.examples.total() == IMAGES
    assert account.class_totals() == {"cat": 200, "dog": 200, "öl": 200}
    assert account.rejected == ({"empty": 1} if "tree" in path else {})
    assert proxy.met[:2] == ["503", "drop"]


def test_listing_goes_page_by_page(proxy: FlakyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_PAGE", 140)
    before = proxy.requests
    names = list(files.walk("gs://images/tree", STORAGE))
    assert len(names) == IMAGES + 1
    assert names == sorted(names)
    assert proxy.requests - before == 5


def test_streams_and_spans(proxy: FlakyProxy) -> None:
    config = config_of(paths="gs://images/day-{SPAN}/all.*")
    resolved = resolve(config)
    assert resolved.span == 2
    proxy.faults, proxy.met = ["drop", "503"], []
    assert names_of(resolved.config) == list(archives.classes(IMAGES // 3))
    assert fingerprint(resolved.config) == fingerprint(resolved.config)
    with files.open_stream("gs://images/tree/cat/0.png", STORAGE) as stream:
        assert stream.read() == archives.png(0)
    assert files.read_bytes("gs://images/tree/cat/0.png", STORAGE, limit=8) == archives.png(0)[:8]


def test_folders_of_idx_files_and_of_shards(proxy: FlakyProxy, tmp_path: Path) -> None:
    bucket = proxy.client.bucket("images")
    images = np.stack([archives.pixels(i, 5, 4)[:, :, 0] for i in range(3)])
    archives.write_idx(tmp_path, "train", images, [0, 1, 0], pack=False)
    labels = tmp_path / "train-labels-idx1-ubyte"
    bucket.blob(f"mnist/{labels.name}.gz").upload_from_string(gzip.compress(labels.read_bytes()))
    for name in ("train-images-idx3-ubyte", "README.md"):
        content = tmp_path.joinpath(name).read_bytes() if "idx3" in name else b"text"
        bucket.blob(f"mnist/{name}").upload_from_string(content)
    source = ImageSource(config_of(paths="gs://images/mnist/"))
    batches = [batch for unit in source.units() for batch in source.read(unit)]
    assert [label for batch in batches for label in batch.labels] == ["0", "1", "0"]
    assert [batch.ignored.total() for batch in batches] == [1, 0]
    bucket.blob("shards/0.tar").upload_from_string(archives.tar_bytes({"a/1.png": b"x"}))
    with pytest.raises(InputError, match=r"name them: gs://images/shards/\*\.tar$"):
        names_of(config_of(paths="gs://images/shards"))


def test_parquet_with_images(proxy: FlakyProxy) -> None:
    sink = io.BytesIO()
    contents = [archives.png(seed) for seed in range(9)]
    pq.write_table(pa.table({"image": contents, "label": [0, 1, 2] * 3}), sink, row_group_size=4)
    proxy.client.bucket("images").blob("sets/test-0.parquet").upload_from_string(sink.getvalue())
    proxy.faults, proxy.met = ["drop", "503"], []
    source = ImageSource(config_of(paths="gs://images/sets/*.parquet", units={"members": 4}))
    batches = [batch for unit in source.units() for batch in source.read(unit)]
    assert [data for batch in batches for data in batch.data] == contents
    assert proxy.met


def test_manifest_with_addresses(proxy: FlakyProxy, tmp_path: Path) -> None:
    rows = ["path,label", "gs://images/tree/cat/0.png,cat", "gs://images/tree/none.png,cat"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    source = ImageSource(config_of(paths=str(tmp_path / "m.csv")))
    (batch,) = [batch for unit in source.units() for batch in source.read(unit)]
    assert batch.data == [archives.png(0)]
    assert batch.keys == ["gs://images/tree/cat/0.png"]
    assert [(reject.member, reject.reason) for reject in batch.rejects] == [
        ("gs://images/tree/none.png", "missing")
    ]


def test_fingerprint_of_a_manifest_sees_its_objects(
    proxy: FlakyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = proxy.client.bucket("images")
    folders = [f"listed/{i}" for i in range(3)]
    for folder in folders:
        bucket.blob(f"{folder}/a.png").upload_from_string(archives.png(1))
        bucket.blob(f"{folder}/below/b.png").upload_from_string(archives.png(2))
    rows = ["path,label", *(f"gs://images/{folder}/a.png,cat" for folder in folders)]
    (tmp_path / "m.csv").write_text("\n".join([*rows, "gs://no-such-bucket/a/1.png,cat"]))
    config = config_of(paths=str(tmp_path / "m.csv"))
    for most in (1000, 2):
        monkeypatch.setattr("components.image_sources.fingerprint._MOST_FOLDERS", most)
        before = fingerprint(config)
        assert fingerprint(config) == before
        bucket.blob("listed/1/below/b.png").upload_from_string(archives.png(most))
        # What is below a named folder counts only where folders were too many to remember.
        assert (fingerprint(config) == before) == (most == 1000)
        before = fingerprint(config)
        bucket.blob("listed/1/a.png").upload_from_string(archives.png(most))
        assert fingerprint(config) != before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://no-such-bucket/a.zip", "gs://no-such-bucket/a.zip: no such"),
        ("gs://images/none", "gs://images/none: no such object or folder"),
        ("gs://images/none*.zip", "nothing matches"),
        ("gs://images/day", "gs://images/day: no such object or folder"),
        ("gs:///day-1", "gs:///day-1: names no bucket"),
    ],
)
def test_missing_is_one_line(proxy: FlakyProxy, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        names_of(config_of(paths=path))
    assert "\n" not in str(caught.value)


def test_giving_up_and_no_permission(proxy: FlakyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    from google.api_core import exceptions

    def answer(error: Exception) -> None:
        def download(*_: Any) -> bytes:
            raise error

        monkeypatch.setattr(google_store.GoogleStore, "get", download)

    config = config_of(paths="gs://images/day-1/all.zip")
    answer(exceptions.ServiceUnavailable("busy"))
    with pytest.raises(InputError, match=r"did not answer in 4 attempts; check .* again .503 busy"):
        names_of(config)
    answer(exceptions.Forbidden("no"))
    with pytest.raises(InputError, match="no permission to read it; grant Storage Object Viewer"):
        names_of(config)
