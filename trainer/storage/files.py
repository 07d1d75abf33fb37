"""Reads, lists and writes files by path: on disk, and objects at `gs://`, `s3://` and `minio://`.

Every package calls these functions, and no other module of this folder but for errors and options.
Their errors are those of `failures.py`. Client libraries are imported when their paths are met,
because each takes about a second.
"""

import glob
import hashlib
import io
import os
import posixpath
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final, TypeVar

from trainer.storage import listing
from trainer.storage.addresses import SCHEMES
from trainer.storage.config import DEFAULT, StorageConfig
from trainer.storage.failures import StorageError, unreadable, writing_explained
from trainer.storage.interface import FileFacts, RangedFile
from trainer.storage.local_disk import LocalFile, open_local, read_local

if TYPE_CHECKING:
    from trainer.storage.object_store import ObjectStore

# Google's libraries announce the end of a Python version years ahead.
warnings.filterwarnings("ignore", "You are using a Python version", FutureWarning)

TEMPORARY: Final = ".tmp-"
"""Prefix of unfinished local files, which the next job removes."""

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_REQUESTS: Final = 32
"""Number of concurrent requests when many objects are read, copied or deleted."""
_AT_ONCE: Final = 8 * _REQUESTS
_SPOOL_BYTES: Final = 64 << 20
_WHOLE: Final = 1 << 40
_PIECE: Final = 1 << 20
_T = TypeVar("_T")


def is_remote(path: str) -> bool:
    """Returns whether a path is an address in a store, such as `gs://bucket/name`.

    Raises:
        StorageError: for stores that are not supported, which would be taken for local paths.
    """
    scheme = _SCHEME.match(path)
    if scheme and scheme.group() not in SCHEMES:
        stores = "gs://, s3:// or minio://"
        raise StorageError(path, f"{scheme.group()} is not supported; give a local path, {stores}")
    return bool(scheme)


def stat(path: str, access: StorageConfig = DEFAULT) -> FileFacts:
    """Returns the size and version of a file.

    Raises:
        MissingError: if there is no such file.
    """
    if is_remote(path):
        return _store(path, access).stat(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    # The inode's change time reveals an edit after which the modification time was reset.
    version = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    return FileFacts(status.st_size, version, status.st_mtime)


def exists(path: str, access: StorageConfig = DEFAULT) -> bool:
    """Returns whether a file exists."""
    return _store(path, access).exists(path) if is_remote(path) else os.path.exists(path)


def is_folder(path: str, access: StorageConfig = DEFAULT) -> bool:
    """Returns whether a folder, or a remote prefix with objects under it, exists."""
    return _store(path, access).is_folder(path) if is_remote(path) else os.path.isdir(path)


def open_ranged(path: str, access: StorageConfig = DEFAULT) -> RangedFile:
    """Opens a file for ranged reads, from any thread.

    Raises:
        StorageError: if it cannot be opened.
    """
    return _store(path, access).open_ranged(path) if is_remote(path) else LocalFile(path)


def open_stream(path: str, access: StorageConfig = DEFAULT) -> BinaryIO:
    """Opens a file for sequential reading.

    Raises:
        StorageError: if it cannot be opened.
    """
    return _store(path, access).open_stream(path) if is_remote(path) else open_local(path)


def read_bytes(path: str, access: StorageConfig = DEFAULT, limit: int = _WHOLE) -> bytes:
    """Reads a whole file, at most `limit` bytes.

    Raises:
        MissingError: if it does not exist.
        StorageError: if it cannot be read.
    """
    return _store(path, access).read(path, 0, limit) if is_remote(path) else read_local(path, limit)


def read_each(paths: Iterable[str]) -> Iterator[bytes]:
    """Reads files in order; objects concurrently, because each costs one request."""
    rest = iter(paths)
    while some := list(islice(rest, _AT_ONCE)):
        # Local files are faster without threads.
        yield from (in_parallel if is_remote(some[0]) else map)(read_bytes, some)


def walk(folder: str, access: StorageConfig = DEFAULT) -> Iterator[str]:
    """Streams the files under a folder, sorted, in the same order in every store.

    Links are followed, except a link to one of its own parent folders.

    Yields:
        Paths relative to the folder, `/`-separated; none if it does not exist.

    Raises:
        StorageError: if a folder cannot be read.
    """
    if is_remote(folder):
        return _store(folder, access).walk(folder)
    return listing.walk(folder) if os.path.isdir(folder) else iter(())


def entries(
    folder: str, access: StorageConfig = DEFAULT, *, below: bool = True
) -> Iterator[tuple[str, FileFacts]]:
    """Streams the objects under a remote folder, or only those in it, with their facts.

    A listing has them already, so they cost no further requests.
    """
    return _store(folder, access).entries(folder, below=below)


def digest(path: str) -> str:
    """Returns the SHA-256 of a file, or of names and content of all files under a folder.

    It reads in pieces, so that large files take no memory.
    """
    names = list(walk(path)) if is_folder(path) else [""]
    sha256 = hashlib.sha256()
    for name in names:
        sha256.update(name.encode())
        with open_stream(posixpath.join(path, name) if name else path) as content:
            while piece := content.read(_PIECE):
                sha256.update(piece)
    return sha256.hexdigest()


def list_names(folder: str) -> list[str]:
    """Lists the names directly in a folder, sorted; empty if it does not exist."""
    if is_remote(folder):
        return _store(folder).list_names(folder)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def matching(pattern: str, access: StorageConfig = DEFAULT) -> list[str]:
    """Returns the files and folders that a pattern matches, sorted, without trailing slashes."""
    if is_remote(pattern):
        return _store(pattern, access).matching(pattern)
    if os.path.exists(pattern):
        return [pattern.rstrip("/") or "/"]
    return sorted(glob.glob(pattern, recursive=True))


@contextmanager
def writing(path: str) -> Iterator[IO[bytes]]:
    """Opens a file that appears, complete, when the block ends without an error.

    Args:
        path: The path of the file; missing folders are created.

    Raises:
        OutputError: if the disk is full or is not writable.
    """
    if is_remote(path):
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            yield spool
            _store(path).put(path, spool)
        return
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
    try:
        with writing_explained(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as local:
                yield local
            temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file atomically.

    Raises:
        OutputError: as for `writing`.
    """
    with writing(path) as file:
        file.write(content)


def write_if(path: str, content: bytes, version: str) -> str:
    """Writes an object if it has a certain version.

    Args:
        path: The object; the local disk has no conditional writes.
        content: The content.
        version: The version to overwrite, as `stat` returns it; empty if there must be no object.

    Returns:
        The new version.

    Raises:
        ConflictError: if the object has another version. If only the response to an earlier
            attempt was lost, that version may be this one.
    """
    return _store(path).put(path, io.BytesIO(content), version)


def copy(source: str, target: str) -> None:
    """Copies a file; the copy appears complete, and objects do not leave the store."""
    if is_remote(source) and is_remote(target):
        store = _store(source)
        if isinstance(_store(target), type(store)):
            store.copy(source, target)
            return
    with open_stream(source) as content:
        if is_remote(target):
            _store(target).put(target, content)
        else:
            with writing(target) as file:
                shutil.copyfileobj(content, file)


def move(source: str, target: str) -> None:
    """Moves a file; repeating a completed move does nothing."""
    if not exists(source) and exists(target):
        return
    if is_remote(source):
        copy(source, target)
        remove(source)
    else:
        with writing_explained(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(source, target)


def remove(path: str) -> None:
    """Removes a file, or a folder and its content; does nothing if there is none."""
    if is_remote(path):
        _delete(path)
        for_each(_delete, (f"{path.rstrip('/')}/{name}" for name in walk(path)))
    elif os.path.isdir(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def _delete(path: str) -> None:
    _store(path).delete(path)


def for_each(function: Callable[[str], object], paths: Iterable[str]) -> None:
    """Calls a function of paths in threads, like `in_parallel`, for what it does."""
    for _ in in_parallel(function, paths):
        pass


def in_parallel(function: Callable[[str], _T], paths: Iterable[str]) -> Iterator[_T]:
    """Calls a function of paths in threads, which hide the latency of objects.

    Yields:
        The results in order; only a few hundred are in memory at a time.
    """
    rest = iter(paths)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        while some := list(islice(rest, _AT_ONCE)):
            yield from pool.map(function, some)


@contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yields a local file or folder with the same content: itself, or a temporary download.

    TensorFlow has no file system for `s3://`, and some builds of it none for `gs://`.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="vaeline-") as temporary:
        # A subfolder, because the temporary folder itself is readable only by its owner.
        local = os.path.join(temporary, "copy", posixpath.basename(path.rstrip("/")))
        if exists(path):
            copy(path, local)
        else:
            copy_tree(path, local)
        yield local


def copy_tree(source: str, target: str) -> None:
    """Copies the files under a folder to another place."""

    def copy_one(name: str) -> None:
        copy(posixpath.join(source, name), posixpath.join(target, name))

    for_each(copy_one, walk(source))


def make_folder(path: str) -> None:
    """Creates a folder and its parents; stores of objects need none."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def _store(path: str, access: StorageConfig = DEFAULT) -> "ObjectStore":
    """Returns the store of a remote path."""
    if not is_remote(path):
        raise StorageError(path, "on the local disk, where only objects in a store will do")
    if path.startswith("gs://"):
        from trainer.storage.google_store import GoogleStore

        return GoogleStore(access)
    try:
        from trainer.storage.s3_store import S3Store, require_own_server
    except ModuleNotFoundError as error:
        raise StorageError(
            path, f"{error.name} is not installed; s3:// needs it: pip install boto3"
        ) from error
    if path.startswith("minio://"):
        require_own_server(path, access)
    return S3Store(access)
