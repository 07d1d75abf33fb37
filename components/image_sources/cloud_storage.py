"""Lists and reads objects in Cloud Storage, with retries and one-line errors.

Readers use it through `files.py`; writes are in `cloud_writes.py`. Each request is tried
`storage.attempts` times. Every request is a bounded range, so a dropped connection never causes
earlier ranges to be read again.
"""

import io
import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, BinaryIO, Final, TypeVar

import requests
import urllib3
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as gcs

from components.image_sources.base import FileFacts
from components.image_sources.config import MIB, StorageConfig
from trainer.errors import InputError

_T = TypeVar("_T")
_PAGE: Final = 1000
_STREAM_BYTES: Final = 8 * MIB
_FIRST_PAUSE_SECS: Final = 0.2
_TRANSIENT: Final = (
    exceptions.TooManyRequests,
    exceptions.InternalServerError,
    exceptions.BadGateway,
    exceptions.ServiceUnavailable,
    exceptions.GatewayTimeout,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    requests.exceptions.Timeout,
    # The client does not wrap a connection that breaks during a raw download.
    urllib3.exceptions.HTTPError,
    ConnectionError,
)


def open_ranged(path: str, storage: StorageConfig) -> "_Object":
    """Opens an object for ranged reads.

    Raises:
        InputError: if the object does not exist or may not be read.
    """
    return _Object(path, storage)


def open_stream(path: str, storage: StorageConfig) -> BinaryIO:
    """Opens an object for sequential reading, in ranges of a few MiB."""
    return io.BufferedReader(_Stream(_Object(path, storage)), _STREAM_BYTES)


def read_object(path: str, storage: StorageConfig, limit: int) -> bytes:
    """Reads an object, at most `limit` + 1 bytes.

    Raises:
        FileNotFoundError: if the object does not exist.
        OSError: if it cannot be read.
    """
    blob = blob_of(path, storage)
    try:
        return retried(path, storage, lambda: _download(blob, 0, limit + 1, storage))
    except InputError as error:
        if isinstance(error.__cause__, exceptions.NotFound):
            raise FileNotFoundError(path) from error
        raise OSError(str(error)) from error


def facts(path: str, storage: StorageConfig) -> FileFacts:
    """Returns the size and generation of an object.

    Raises:
        InputError: if the object does not exist.
    """
    blob = blob_of(path, storage)
    retried(path, storage, lambda: blob.reload(timeout=storage.timeout_secs, retry=None))
    return FileFacts(blob.size, str(blob.generation))


def walk(path: str, storage: StorageConfig) -> Iterator[str]:
    """Lists the objects under a prefix, page by page, sorted by name.

    Yields:
        Names relative to the prefix; folder markers are omitted.
    """
    prefix = _split(path)[1].rstrip("/")
    skip = len(prefix) + 1 if prefix else 0
    for blob in _list(path.rstrip("/") + "/", storage):
        if not blob.name.endswith("/"):
            yield blob.name[skip:]


def walk_facts(
    path: str, storage: StorageConfig, *, with_all_below: bool = True
) -> Iterator[bytes]:
    """Yields name, size and generation of every object under a prefix, or directly in it."""
    delimiter = None if with_all_below else "/"
    for blob in _list(path.rstrip("/") + "/", storage, delimiter=delimiter):
        yield f"{blob.name}\0{blob.size} {blob.generation}\n".encode()


def expand(path: str, storage: StorageConfig) -> list[str]:
    """Expands a glob; `*` and `?` match within one folder, `**` across folders.

    Raises:
        InputError: if nothing matches.
    """
    bucket, name = _split(path)
    magic = re.search(r"[*?\[]", name)
    if magic is None:
        first = next(_list(path, storage, most=1), None)
        if first is None:
            raise InputError(f"{path}: no such object or folder; check `paths` of the input")
        return [path.rstrip("/")]
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = re.compile(
        "".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*|\?)", name))
    )
    found: dict[str, None] = {}
    for blob in _list(f"gs://{bucket}/{name[: magic.start()]}", storage):
        # A pattern may match objects or folders; the set yields each folder once.
        match = expression.match(blob.name)
        if match and blob.name[match.end() : match.end() + 1] in ("", "/"):
            found.setdefault(f"gs://{bucket}/{match.group()}")
    if not found:
        raise InputError(f"{path}: nothing matches; check `paths` of the input")
    return sorted(found)


def is_prefix(path: str, storage: StorageConfig) -> bool:
    """Returns whether any object exists under the address, taken as a folder."""
    return next(_list(path.rstrip("/") + "/", storage, most=1), None) is not None


class _Object:
    """Reads ranges of one object, whose size is known when it is opened."""

    def __init__(self, path: str, storage: StorageConfig) -> None:
        self._path = path
        self._storage = storage
        self._blob = blob_of(path, storage)
        self.size = facts(path, storage).size

    def read(self, start: int, length: int) -> bytes:
        """Reads `length` bytes, fewer at the end of the object."""
        length = min(length, self.size - start)
        if length <= 0:
            return b""
        return retried(
            self._path,
            self._storage,
            lambda: _download(self._blob, start, length, self._storage),
        )

    def close(self) -> None:
        """Does nothing, because the client owns the connections."""


class _Stream(io.RawIOBase):
    """Presents an object as a stream that is fetched range by range."""

    def __init__(self, source: _Object) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path.removeprefix("gs://").partition("/")
    return bucket, name


@lru_cache(maxsize=4)
def _client(anonymous: bool) -> gcs.Client:
    """Returns the process's client; the library honours `STORAGE_EMULATOR_HOST`."""
    try:
        if anonymous:
            return gcs.Client(project="none", credentials=AnonymousCredentials())
        return gcs.Client()
    except (auth_exceptions.GoogleAuthError, OSError) as error:
        raise InputError(
            "gs://: no Google credentials; run `gcloud auth application-default login`, or set"
            " storage.anonymous: true for public buckets"
        ) from error


def blob_of(path: str, storage: StorageConfig) -> Any:
    """Returns a handle to an object without making a request."""
    bucket, name = _split(path)
    return _client(storage.anonymous).bucket(bucket).blob(name)


def _download(blob: Any, start: int, length: int, storage: StorageConfig) -> bytes:
    """Reads one range."""
    try:
        return blob.download_as_bytes(
            start=start,
            end=start + length - 1,
            # Without it, objects with `Content-Encoding: gzip` would arrive decompressed.
            raw_download=True,
            checksum=None,
            timeout=storage.timeout_secs,
            retry=None,
        )
    except exceptions.RequestRangeNotSatisfiable:
        return b""


def _list(
    path: str, storage: StorageConfig, *, most: int | None = None, delimiter: str | None = None
) -> Iterator[Any]:
    """Lists objects by prefix; each page is one request and is retried on its own."""
    bucket, prefix = _split(path)
    prefix = "" if prefix == "/" else prefix
    token: str | None = None
    client = _client(storage.anonymous)

    def page() -> tuple[list[Any], str | None]:
        found = client.list_blobs(
            bucket,
            prefix=prefix,
            page_token=token,
            page_size=_PAGE,
            max_results=most,
            delimiter=delimiter,
            fields="items(name,size,generation),nextPageToken",
            timeout=storage.timeout_secs,
            retry=None,
        )
        return list(next(found.pages, ())), found.next_page_token

    while True:
        blobs, token = retried(path, storage, page)
        yield from blobs
        if token is None or most is not None:
            return


def retried(
    path: str,
    storage: StorageConfig,
    request: Callable[[], _T],
    verb: str = "read",
    role: str = "Storage Object Viewer",
) -> _T:
    """Repeats a request until it succeeds or the attempts are used up.

    Args:
        path: The address that the request concerns.
        storage: The number of attempts.
        request: The request.
        verb: What the request does, for the error message.
        role: The role that it requires, for the error message.

    Raises:
        InputError: if the last attempt fails or the error is permanent.
    """
    pause = _FIRST_PAUSE_SECS
    for attempt in range(1, storage.attempts + 1):
        try:
            return request()
        except _TRANSIENT as error:
            if attempt == storage.attempts:
                raise InputError(
                    f"{path}: Cloud Storage did not answer in {attempt} attempts:"
                    f" {_one_line(error)}"
                ) from error
            time.sleep(pause)
            pause *= 2
        except exceptions.NotFound as error:
            what = "bucket or object; check `paths`" if verb == "read" else "bucket"
            raise InputError(f"{path}: no such {what}") from error
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise InputError(
                f"{path}: no permission to {verb} it; grant {role} to the account"
            ) from error
        except auth_exceptions.GoogleAuthError as error:
            raise InputError(f"{path}: Google credentials do not work: {error}") from error
        except exceptions.GoogleAPICallError as error:
            raise InputError(f"{path}: {_one_line(error)}") from error
    raise AssertionError("unreachable")


def _one_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
