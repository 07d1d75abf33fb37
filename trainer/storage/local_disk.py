"""Opens files on disk, with the errors of `failures.py`; `files.py` calls it."""

import io
import os
import stat
from typing import Any, BinaryIO, Final

from trainer.storage.failures import StorageError, unreadable

_BUFFER: Final = 1 << 20
_MORE: Final = 1 << 26


class LocalFile:
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


def open_local(path: str) -> BinaryIO:
    """Opens a file on disk for sequential reading."""
    return io.BufferedReader(_LocalStream(path), _BUFFER)


def read_local(path: str, limit: int) -> bytes:
    """Reads a whole file on disk, at most `limit` bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, min(limit, os.fstat(descriptor).st_size + 1))
            # One call returns at most 2 GiB, and less on some network file systems.
            while data and (left := min(limit - len(data), _MORE)):
                more = os.read(descriptor, left)
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(path, error) from error


def _open_regular(path: str) -> int:
    """Opens a regular file; opening a pipe would block, and an open folder cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(path, error) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise StorageError(path, "a folder, not a file; set `format: folder`, or name its files")
    raise StorageError(path, "a pipe or device; copy its content to a file first")
