"""Unpacks a compressed stream in exact amounts, and stops at decompression bombs.

`tar_stream.py` reads archives with it; the first bytes reveal the compression.
"""

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, Protocol

import zstandard

from components.image_sources.config import RATIO_FLOOR, InputConfig
from components.image_sources.magic_numbers import (
    BZIP2_START,
    COMPRESSED_STARTS,
    GZIP_START,
    XZ_START,
    ZSTD_STARTS,
)
from components.image_sources.seek_points import (
    ZSTD_WINDOW,
    Entrances,
    EntryPoint,
    GzipEntrances,
    ZstdEntrances,
    open_gzip,
    open_zstd,
)
from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.interface import RangedFile

_READ: Final = 1024 * 1024
_STARTS: Final = {
    "gzip": (GZIP_START,),
    "zstd": ZSTD_STARTS,
    "bzip2": (BZIP2_START,),
    "xz": (XZ_START,),
}
_LONGEST_START: Final = max(map(len, COMPRESSED_STARTS))
# bz2 reports damage as a plain OSError; that the file cannot be read is an InputError already.
_PACKING_ERRORS: Final = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


class ByteStream(Protocol):
    """Describes what a parser reads from."""

    @property
    def position(self) -> int:
        """Returns the number of bytes before the next one that is read."""

    def read(self, size: int) -> bytes:
        """Reads `size` bytes; raises InputError if there are fewer."""

    def read_up_to(self, size: int) -> bytes:
        """Reads `size` bytes, fewer at the end."""

    def skip(self, size: int) -> None:
        """Passes over `size` bytes; raises InputError if there are fewer."""


def compression(path: str) -> str:
    """Returns the name of a local file's compression, empty if there is none."""
    with contextlib.closing(files.open_ranged(path)) as file:
        return _compression(file)


def _compression(file: RangedFile) -> str:
    head = file.read(0, _LONGEST_START)
    return next((name for name, start in _STARTS.items() if head.startswith(start)), "")


@contextmanager
def open_unpacked(
    path: str, config: InputConfig, start: int = 0, entry: EntryPoint | None = None
) -> Iterator[ByteStream]:
    """Opens a file, compressed or not.

    Args:
        path: The file.
        config: Limits and storage.
        start: Offset in the content where to begin; only for a local file.
        entry: How `start` is reached in a compressed file; None reads from its beginning.

    Raises:
        InputError: if the file cannot be opened, or what is read in the block is damaged.
    """
    with contextlib.ExitStack() as opened:
        if not files.is_remote(path):
            file = opened.enter_context(contextlib.closing(files.open_ranged(path)))
            if not _compression(file):
                yield PlainStream(path, file, start)
                return
        opened.enter_context(_explained(path))
        counter = opened.enter_context(_Counted(files.open_stream(path, config.storage)))
        if start and entry:
            yield _entered(path, file, counter, start, entry)
            return
        unpacked = _unpacked(io.BufferedReader(counter, _READ))
        yield UnpackedStream(path, unpacked, counter, config.limits.max_ratio)


def _entered(
    path: str, file: RangedFile, counter: "_Counted", start: int, entry: EntryPoint
) -> "UnpackedStream":
    """Opens a compressed file, which was read through before, at an offset of its content."""
    if entry.points:
        stream = open_gzip(counter, _points(entry.points), start)
        return UnpackedStream(path, stream, counter, math.inf, start)
    stream = open_zstd(file, entry.packed, file.size)
    unpacked = UnpackedStream(path, stream, counter, math.inf, entry.unpacked)
    unpacked.skip(start - entry.unpacked)
    return unpacked


@functools.lru_cache(maxsize=1)
def _points(path: str) -> bytes:
    """Reads the points of a gzip file, which a worker needs for each of its units."""
    return files.read_bytes(path)


@contextmanager
def open_entrances(path: str, config: InputConfig) -> Iterator[tuple[ByteStream, Entrances]]:
    """Opens a local gzip or zstd file to find where it can be entered.

    Args:
        path: The file.
        config: Limits, and the size of a unit.

    Raises:
        InputError: if the file cannot be opened, or what is read in the block is damaged.
    """
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(contextlib.closing(files.open_ranged(path)))
        opened.enter_context(_explained(path))
        counter = opened.enter_context(_Counted(files.open_stream(path)))
        entrances: Entrances
        if _compression(file) == "gzip":
            entrances = GzipEntrances(path, counter, file.size, config.units.max_bytes)
        else:
            entrances = ZstdEntrances(file)
        # What is read of a zstd file does not pass the counter, and its size bounds the ratio too.
        counter.consumed = file.size
        yield UnpackedStream(path, entrances, counter, config.limits.max_ratio), entrances


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        # An object that is gone or refused explains itself.
        raise
    except _PACKING_ERRORS as error:
        raise InputError(f"{path}: damaged or cut short ({error}); copy it again") from error


class PlainStream:
    """Reads exact numbers of bytes from a file, and skips without reading.

    Args:
        path: The file, for error messages.
        file: The open file.
        start: Where to begin.
    """

    def __init__(self, path: str, file: RangedFile, start: int) -> None:
        self._path = path
        self._file = file
        self.position = start

    def read(self, size: int) -> bytes:
        """Reads `size` bytes.

        Raises:
            InputError: if there are fewer.
        """
        self._require(size)
        return self.read_up_to(size)

    def read_up_to(self, size: int) -> bytes:
        """Reads `size` bytes, fewer at the end of the file."""
        data = self._file.read(self.position, size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> None:
        """Passes over `size` bytes.

        Raises:
            InputError: if there are fewer.
        """
        self._require(size)
        self.position += size

    def _require(self, size: int) -> None:
        if self.position + size > self._file.size:
            raise InputError(
                f"{self._path}: cut short after {self._file.size} bytes; copy or download it again"
            )


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

    def seekable(self) -> bool:
        """Returns whether the stream is."""
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Goes to an offset."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Returns the offset."""
        return self._stream.tell()

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
    if head.startswith(ZSTD_STARTS):
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
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
        position: Offset of the decompressed stream in the content.
    """

    def __init__(
        self, path: str, stream: _Readable, packed: _Counted, max_ratio: float, position: int = 0
    ) -> None:
        self._path = path
        self._stream = stream
        self._packed = packed
        self._ratio = max_ratio
        self._given = position

    @property
    def position(self) -> int:
        """Returns the number of unpacked bytes before the next one."""
        return self._given

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
