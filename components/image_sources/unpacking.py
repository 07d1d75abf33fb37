"""Unpacks a compressed stream in exact amounts, and stops at decompression bombs.

`tar_stream.py` reads archives with it; the first bytes reveal the compression.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, Protocol

import zstandard

from components.image_sources.config import RATIO_FLOOR, InputConfig
from components.image_sources.magic_numbers import BZIP2_START, GZIP_START, XZ_START, ZSTD_START
from trainer.errors import InputError
from trainer.storage import files

_READ: Final = 1024 * 1024
_ZSTD_WINDOW: Final = 1 << 27
# bz2 reports damage as a plain OSError; that the file cannot be read is an InputError already.
_PACKING_ERRORS: Final = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


@contextmanager
def open_unpacked(path: str, config: InputConfig) -> Iterator["UnpackedStream"]:
    """Opens a file, compressed or not.

    Args:
        path: The file.
        config: Limits and storage.

    Raises:
        InputError: if the file cannot be opened, or what is read in the block is damaged.
    """
    counter = _Counted(files.open_stream(path, config.storage))
    try:
        unpacked = _unpacked(io.BufferedReader(counter, _READ))
        yield UnpackedStream(path, unpacked, counter, config.limits.max_ratio)
    except _PACKING_ERRORS as error:
        raise InputError(f"{path}: damaged or cut short ({error}); copy it again") from error
    finally:
        counter.close()


class _Readable(Protocol):
    """Describes the interface that all decompressors share."""

    def read(self, size: int, /) -> bytes:
        """Reads at most `size` bytes."""


class _Counted(io.RawIOBase):
    """Counts the bytes that are read from a stream.

    Args:
        stream: The stream to read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.consumed = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads at most as many bytes as the buffer holds."""
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.consumed += len(data)
        return len(data)

    def close(self) -> None:
        """Closes the stream."""
        self._stream.close()
        super().close()


def _unpacked(stream: io.BufferedReader) -> _Readable:
    """Returns the decompressed stream; the first bytes reveal the compression."""
    head = stream.peek(6)
    if head.startswith(GZIP_START):
        return gzip.GzipFile(fileobj=stream, mode="rb")
    if head.startswith(ZSTD_START):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return decompressor.stream_reader(stream, read_across_frames=True)
    if head.startswith(BZIP2_START):
        return bz2.BZ2File(stream)
    if head.startswith(XZ_START):
        return lzma.LZMAFile(stream)
    return stream


class UnpackedStream:
    """Reads exact numbers of bytes from a decompressed stream and enforces the ratio limit.

    Args:
        path: The archive, for error messages.
        stream: The decompressed stream.
        packed: The compressed stream underneath.
        max_ratio: Largest permitted ratio of unpacked to packed bytes.
    """

    def __init__(self, path: str, stream: _Readable, packed: _Counted, max_ratio: float) -> None:
        self._path = path
        self._stream = stream
        self._packed = packed
        self._ratio = max_ratio
        self._given = 0

    def read(self, size: int) -> bytes:
        """Reads `size` bytes.

        Raises:
            InputError: if there are fewer, or the ratio is that of a decompression bomb.
        """
        data = self.read_up_to(size)
        if len(data) < size:
            raise InputError(
                f"{self._path}: cut short after {self._given} bytes; copy or download it again"
            )
        return data

    def read_up_to(self, size: int) -> bytes:
        """Reads `size` bytes, fewer at the end of the stream.

        Raises:
            InputError: if the ratio is that of a decompression bomb.
        """
        data = self._stream.read(size)
        while 0 < len(data) < size and (more := self._stream.read(size - len(data))):
            data += more
        self._given += len(data)
        if self._given > RATIO_FLOOR and self._given > self._ratio * self._packed.consumed:
            raise InputError(
                f"{self._path}: a decompression bomb: {self._packed.consumed} bytes unpack to more"
                f" than {self._given}; raise limits.max_ratio if that is meant"
            )
        return data

    def skip(self, size: int) -> None:
        """Reads and discards `size` bytes."""
        while size > 0:
            size -= len(self.read(min(size, _READ)))
