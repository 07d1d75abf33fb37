"""Sends the requests of `object_store.py` to Cloud Storage, for paths at `gs://`."""

import contextlib
import os
from functools import lru_cache
from typing import IO, Any, Final

import requests
import urllib3
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as gcs

from trainer.storage.failures import MissingError, StorageError, conflict
from trainer.storage.interface import FileFacts
from trainer.storage.object_store import ObjectPage, ObjectStore, brief

_NO_OBJECT: Final = 0
"""The generation of an object that does not exist."""


class GoogleStore(ObjectStore):
    """Stores objects in Cloud Storage; an object's version is its generation."""

    name = "Cloud Storage"
    transient = (
        exceptions.TooManyRequests,
        exceptions.InternalServerError,
        exceptions.BadGateway,
        exceptions.ServiceUnavailable,
        exceptions.GatewayTimeout,
        requests.exceptions.ConnectionError,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        requests.exceptions.Timeout,
        auth_exceptions.TransportError,
        # The client does not wrap a connection that breaks during a raw download.
        urllib3.exceptions.HTTPError,
        ConnectionError,
    )

    def get(self, bucket: str, name: str, start: int, length: int, version: str | None) -> bytes:
        """See the base class."""
        blob = self._blob(bucket, name)
        try:
            content = blob.download_as_bytes(
                start=start,
                end=start + length - 1,
                # Without it, objects with `Content-Encoding: gzip` would arrive decompressed.
                raw_download=True,
                checksum=None,
                **self._options(),
            )
        except exceptions.RequestRangeNotSatisfiable:
            return b""
        # The response names its generation; emulators do not honour the condition of a request.
        if version is not None and blob.generation is not None and str(blob.generation) != version:
            raise exceptions.PreconditionFailed(f"generation {blob.generation}, not {version}")
        return content

    def head(self, bucket: str, name: str) -> FileFacts:
        """See the base class."""
        blob = self._blob(bucket, name)
        blob.reload(**self._options())
        return self.facts(blob)

    def page(
        self, bucket: str, prefix: str, token: str | None, size: int, delimiter: str | None
    ) -> ObjectPage:
        """See the base class."""
        found = self._client().list_blobs(
            bucket,
            prefix=prefix,
            page_token=token,
            page_size=size,
            delimiter=delimiter,
            fields="items(name,size,generation,updated),prefixes,nextPageToken",
            **self._options(),
        )
        items = list(next(found.pages, ()))
        return ObjectPage(items, sorted(found.prefixes), found.next_page_token)

    def key(self, item: Any) -> str:
        """See the base class."""
        return item.name

    def facts(self, item: Any) -> FileFacts:
        """See the base class."""
        return FileFacts(item.size, str(item.generation), item.updated.timestamp())

    def upload(
        self, bucket: str, name: str, source: IO[bytes], size: int, version: str | None
    ) -> str:
        """See the base class."""
        blob = self._blob(bucket, name)
        blob.upload_from_file(
            source,
            # With it, a small object costs one request.
            size=size,
            checksum="crc32c",
            if_generation_match=None if version is None else int(version or _NO_OBJECT),
            **self._options(),
        )
        return str(blob.generation)

    def duplicate(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        """See the base class."""
        blob, token = self._blob(*target), None
        while True:
            token, _, _ = blob.rewrite(self._blob(*source), token=token, **self._options())
            if token is None:
                return

    def erase(self, bucket: str, name: str) -> None:
        """See the base class."""
        with contextlib.suppress(exceptions.NotFound):
            self._blob(bucket, name).delete(**self._options())

    def explain(self, path: str, verb: str, error: Exception) -> StorageError | None:
        """See the base class."""
        match error:
            case exceptions.NotFound():
                suffix = " or object" if verb in ("read", "copy") else ""
                return MissingError(path, f"no such bucket{suffix}")
            case exceptions.PreconditionFailed():
                return conflict(path, verb)
            case exceptions.Forbidden() | exceptions.Unauthorized():
                role = (
                    "Storage Object Viewer" if verb in ("read", "list") else "Storage Object User"
                )
                return StorageError(
                    path, f"no permission to {verb} it; grant {role} to the account"
                )
            case auth_exceptions.GoogleAuthError():
                return StorageError(path, f"Google credentials do not work: {brief(error)}")
            case exceptions.GoogleAPICallError():
                return StorageError(path, brief(error))
        return None

    def _options(self) -> dict[str, Any]:
        # `object_store.py` repeats requests.
        return {"timeout": self.access.timeout_secs, "retry": None}

    def _client(self) -> gcs.Client:
        return google_client(self.access.anonymous)

    def _blob(self, bucket: str, name: str) -> gcs.Blob:
        return self._client().bucket(bucket).blob(name)


@lru_cache(maxsize=2)
def google_client(anonymous: bool) -> gcs.Client:
    """Returns the process's client; the library honours `STORAGE_EMULATOR_HOST`."""
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator and "://" not in emulator:
        raise StorageError(
            "gs://", f"STORAGE_EMULATOR_HOST={emulator} has no scheme; give http://HOST:PORT"
        )
    try:
        if anonymous:
            return gcs.Client(project="none", credentials=AnonymousCredentials())
        return gcs.Client()
    except (auth_exceptions.GoogleAuthError, OSError) as error:
        raise StorageError(
            "gs://",
            "no Google credentials; run `gcloud auth application-default login`, or set"
            " input.storage.anonymous: true for public buckets",
        ) from error
