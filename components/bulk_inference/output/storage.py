"""Reads and atomically writes a job's files, on disk or in Cloud Storage.

Local files are written under a temporary name and renamed; writes of objects are atomic.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from components.image_sources import files
from components.image_sources.config import StorageConfig
from trainer.errors import InputError

TEMPORARY: Final = ".tmp-"
"""Prefix of unfinished local files, which the next job removes."""

_CLOUD: Final = StorageConfig()
_REQUESTS: Final = 32
"""Number of concurrent requests when many objects are read or deleted."""
_SPOOL_BYTES: Final = 64 * 1024 * 1024
_WHOLE: Final = 1 << 40
_REFUSALS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class OutputError(InputError):
    """Reports that the output cannot be written, in one line that says how to fix it."""


def is_remote(path: str) -> bool:
    """Returns whether a path is `gs://bucket/...` and not local.

    Raises:
        InputError: for other stores, which would otherwise be taken for local paths.
    """
    scheme = path.partition("://")[0] if "://" in path else ""
    if scheme not in ("", "gs"):
        raise InputError(f"{path}: {scheme}:// is not supported; give a local folder or gs://")
    return bool(scheme)


def _cloud() -> Any:
    # The client takes a second to import, which jobs on local files avoid.
    from components.image_sources import cloud_storage

    return cloud_storage


def _cloud_writes() -> Any:
    from components.image_sources import cloud_writes

    return cloud_writes


def exists(path: str) -> bool:
    """Returns whether a file exists."""
    return _cloud_writes().exists(path, _CLOUD) if is_remote(path) else Path(path).exists()


def is_folder(path: str) -> bool:
    """Returns whether a folder, or a remote prefix with objects under it, exists."""
    return _cloud().is_prefix(path, _CLOUD) if is_remote(path) else Path(path).is_dir()


def list_names(folder: str) -> list[str]:
    """Lists the names directly in a folder, sorted; empty if it does not exist."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if Path(folder).is_dir() else []
    return sorted({name.split("/", 1)[0] for name in _cloud().walk(folder, _CLOUD)})


def walk(folder: str) -> Iterator[str]:
    """Yields the files under a folder, relative to it; none if it does not exist."""
    if is_remote(folder):
        yield from _cloud().walk(folder, _CLOUD)
        return
    for place, _, names in os.walk(folder):
        for name in names:
            yield os.path.relpath(os.path.join(place, name), folder)


def read_bytes(path: str) -> bytes:
    """Reads a whole file.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    if not is_remote(path):
        return Path(path).read_bytes()
    return bytes(files.read_file(path, _CLOUD, _WHOLE))


def read_each(paths: Iterable[str]) -> Iterator[bytes]:
    """Reads files in order; objects concurrently, because each costs one request."""
    rest = iter(paths)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        while some := list(islice(rest, _REQUESTS * 8)):
            yield from pool.map(read_bytes, some) if is_remote(some[0]) else map(read_bytes, some)


@contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """Yields a local folder with the same files: itself, or a temporary download.

    Some builds of TensorFlow lack its own support for Cloud Storage.
    """
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bulk-model-") as copy:
        names = list(walk(folder))
        contents = read_each(f"{folder.rstrip('/')}/{name}" for name in names)
        for name, content in zip(names, contents, strict=True):
            target = Path(copy, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        yield copy


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
            _cloud_writes().write_object(path, spool, _CLOUD)
        return
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as local:
            yield local
        temporary.replace(target)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}; make room or name another output, and"
            " start again: what is finished stays"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file atomically."""
    with writing(path) as file:
        file.write(content)


def remove(path: str) -> None:
    """Removes a file, or a folder and its content; does nothing if there is none."""
    if is_remote(path):
        cloud, writes = _cloud(), _cloud_writes()
        writes.delete(path, _CLOUD)
        with ThreadPoolExecutor(_REQUESTS) as pool:
            found = (f"{path.rstrip('/')}/{name}" for name in cloud.walk(path, _CLOUD))
            while some := list(islice(found, _REQUESTS * 8)):
                list(pool.map(lambda each: writes.delete(each, _CLOUD), some))
    elif Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def remove_unfinished(folder: str) -> None:
    """Removes the temporary files that a killed job left behind."""
    if not is_remote(folder) and Path(folder).is_dir():
        for left in Path(folder).rglob(f"{TEMPORARY}*"):
            left.unlink(missing_ok=True)


def require_writable(folder: str) -> None:
    """Creates the output folder and checks that it is writable.

    Raises:
        InputError: if it is not.
    """
    probe = f"{folder.rstrip('/')}/{TEMPORARY}probe"
    try:
        write_bytes(probe, b"")
        remove(probe)
    except OutputError as error:
        reason = getattr(error.__cause__, "strerror", None) or str(error)
        raise OutputError(f"{folder}: the output cannot be written: {reason}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{folder}: the output cannot be written: {reason}") from error
