"""Presents one version of an object as a file: by ranges, and as a stream.

`object_store.py` opens them; a stream is fetched range by range.
"""

import io
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from trainer.storage.failures import conflict

_STREAM_BYTES: Final = 8 << 20


class StoredFile:
    """Reads ranges of one version of an object, which is chosen when it is opened.

    Pieces of two versions would make a file that nobody wrote.

    Args:
        path: The address, for error messages.
        size: The version's size in bytes.
        read: Reads a range of that version, from an offset and a length in bytes.
    """

    def __init__(self, path: str, size: int, read: Callable[[int, int], bytes]) -> None:
        self._path = path
        self.size = size
        self._read = read

    def read(self, start: int, length: int) -> bytes:
        """Reads `length` bytes, fewer at the end of the object.

        Raises:
            ConflictError: if the object has another version by now.
        """
        length = min(length, self.size - start)
        if length <= 0:
            return b""
        content = self._read(start, length)
        if len(content) < length:
            raise conflict(self._path, "read")
        return content

    def stream(self) -> BinaryIO:
        """Returns the same version for sequential reading, in ranges of a few MiB."""
        return io.BufferedReader(_Stream(self), _STREAM_BYTES)

    def close(self) -> None:
        """Does nothing, because the client owns the connections."""


class _Stream(io.RawIOBase):
    """Presents an object as a stream that is fetched range by range."""

    def __init__(self, source: StoredFile) -> None:
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
