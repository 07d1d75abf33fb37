"""Opens files on disk and in Cloud Storage behind one interface: size, ranged read, stream.

It lets each reader be written once for both; the code for `gs://` is in `cloud_storage.py`.
"""

import io
import os
import stat
from typing import Any, BinaryIO, Final, Protocol

from components.image_sources.base import FileFacts
from components.image_sources.config import StorageConfig
from trainer.errors import InputError

_BUFFER: Final = 1 << 20


class RangedFile(Protocol):
    """Reads a file by ranges, from any thread."""

    @property
    def size(self) -> int:
        """Returns the size of the file in bytes."""

    def read(self, start: int, length: int) -> bytes:
        """Reads `length` bytes, fewer at the end of the file."""

    def close(self) -> None:
        """Releases the file."""


class _LocalFile:
    """Reads ranges of a file on disk; each read carries its offset, so threads can share it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = _open_regular(path)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, length: int) -> bytes:
        """Reads `length` bytes, fewer at the end of the file."""
        try:
            return os.pread(self._descriptor, length, start)
        except OSError as error:
            raise unreadable(self._path, error) from error

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self._descriptor)


class _LocalStream(io.FileIO):
    """Streams a file on disk; its errors state that reading failed."""

    def __init__(self, path: str) -> None:
        super().__init__(_open_regular(path))
        self._path = path

    def readinto(self, buffer: Any) -> int | None:
        """Reads at most as many bytes as the buffer holds."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise unreadable(self._path, error) from error


def _open_regular(path: str) -> int:
    """Opens a regular file; opening a pipe would block, and an open folder cannot be read.

    Raises:
        InputError: if it is not a regular file or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(path, error) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: a folder, not a file; set `format: folder`, or name its files")
    raise InputError(f"{path}: a pipe or device; copy its content to a file first")


def is_cloud(path: str) -> bool:
    """Returns whether the path is an address in Cloud Storage."""
    return path.startswith("gs://")


def open_ranged(path: str, storage: StorageConfig) -> RangedFile:
    """Opens a file for ranged reads.

    Raises:
        InputError: if it cannot be opened.
    """
    if is_cloud(path):
        from components.image_sources import cloud_storage

        return cloud_storage.open_ranged(path, storage)
    return _LocalFile(path)


def open_stream(path: str, storage: StorageConfig) -> BinaryIO:
    """Opens a file for sequential reading.

    Raises:
        InputError: if it cannot be opened.
    """
    if is_cloud(path):
        from components.image_sources import cloud_storage

        return cloud_storage.open_stream(path, storage)
    return io.BufferedReader(_LocalStream(path), _BUFFER)


def read_file(path: str, storage: StorageConfig, limit: int) -> bytes:
    """Reads a whole small file, at most `limit` + 1 bytes.

    Raises:
        OSError: if it cannot be read.
    """
    if is_cloud(path):
        from components.image_sources import cloud_storage

        return cloud_storage.read_object(path, storage, limit)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        data = os.read(descriptor, limit + 1)
        # One call returns at most 2 GiB, and less on some network file systems.
        while 0 < len(data) <= limit and (more := os.read(descriptor, limit + 1 - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def facts(path: str, storage: StorageConfig) -> FileFacts:
    """Returns the size and version of a file.

    Raises:
        InputError: if there is no such file.
    """
    if is_cloud(path):
        from components.image_sources import cloud_storage

        return cloud_storage.facts(path, storage)
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    # The inode's change time reveals an edit after which the modification time was reset.
    return FileFacts(status.st_size, f"{status.st_mtime_ns}-{status.st_ctime_ns}")


def unreadable(path: str, error: OSError) -> InputError:
    """Returns the error for a path that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file or folder; check `paths` of the input")
    if isinstance(error, PermissionError):
        return InputError(f"{path}: no permission to read it; check its owner and mode")
    return InputError(f"{path}: cannot be read: {error.strerror or error}")
