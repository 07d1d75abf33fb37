"""Finds the places at which a compressed file can be entered, and reads on from them.

`tar_index.py` plans units with them; `unpacking.py` opens a unit at its place. A gzip file can be
entered at points that `indexed_gzip` notes while it reads the file; a zstd file where a frame
begins.
"""

import importlib.util
import io
import json
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

import zstandard

from components.image_sources.magic_numbers import ZSTD_START, ZSTD_STARTS
from trainer.errors import InputError
from trainer.storage.interface import RangedFile

ZSTD_WINDOW: Final = 1 << 27
"""Largest window that a zstd frame may ask for, in bytes: what its `--long` uses."""
_NEAREST: Final = 1 << 16
_MOST_POINTS: Final = 4096
"""Points of a gzip file that are kept at most; each holds a window of 32 KiB."""
_LARGEST_SHARE: Final = 512
"""A gzip file gets a point per this part of it, so that a large file has no large index."""


class EntryPoint(NamedTuple):
    """Says how a unit's part of a compressed file is reached.

    Attributes:
        packed: Offset in the compressed file.
        unpacked: Offset in its content.
        points: File with the points of a gzip file; empty for other files, and until there is one.
    """

    packed: int = 0
    unpacked: int = 0
    points: str = ""

    def encoded(self) -> bytes:
        """Returns the value for `WorkUnit.extra`."""
        return json.dumps(self).encode() if any(self) else b""

    @classmethod
    def of(cls, extra: bytes) -> "EntryPoint":
        """Reads what `encoded` returned."""
        return cls(*json.loads(extra)) if extra else cls()


class Entrances(Protocol):
    """Describes a compressed file that is read from its beginning and remembers where to enter."""

    def read(self, size: int, /) -> bytes:
        """Reads at most `size` bytes of the content."""

    def has_new(self, last: int, position: int) -> bool:
        """Returns whether a unit may begin at `position` if the last one began at `last`."""

    def place(self, position: int) -> EntryPoint:
        """Returns where to enter for the content at `position`, at or after the last such call."""

    def points(self) -> bytes:
        """Returns what `open_gzip` needs besides; empty for other files."""


def gzip_is_indexed() -> bool:
    """Returns whether the library that enters gzip files is installed."""
    return importlib.util.find_spec("indexed_gzip") is not None


class GzipEntrances:
    """Reads a gzip file with `indexed_gzip`.

    Args:
        path: The file, for error messages.
        stream: The file, open and seekable.
        size: Its size.
        unit: Size of a unit in bytes; points are much denser.
    """

    def __init__(self, path: str, stream: Any, size: int, unit: int) -> None:
        import indexed_gzip

        self._path = path
        self._spacing = max(unit // 16, size // _LARGEST_SHARE, _NEAREST)
        self._file = indexed_gzip.IndexedGzipFile(fileobj=stream, spacing=self._spacing)
        self._left = _MOST_POINTS * self._spacing

    def read(self, size: int, /) -> bytes:
        """Reads at most `size` bytes of the content.

        Raises:
            OSError: if the file is damaged.
            InputError: if its content is so large that the index would be.
        """
        data: bytes = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self._path}: its content is too large for an index")
        return data

    def has_new(self, last: int, position: int) -> bool:
        """Returns whether there is a point in between."""
        return position - last >= self._spacing

    def place(self, position: int) -> EntryPoint:
        """Returns nothing that `points` does not say."""
        return EntryPoint()

    def points(self) -> bytes:
        """Returns the points in the library's format."""
        content = io.BytesIO()
        self._file.export_index(fileobj=content)
        return content.getvalue()


def open_gzip(stream: Any, points: bytes, start: int) -> Any:
    """Opens a gzip file at an offset of its content.

    Args:
        stream: The file, open and seekable.
        points: What `GzipEntrances.points` returned.
        start: The offset.
    """
    import indexed_gzip

    file = indexed_gzip.IndexedGzipFile(fileobj=stream)
    file.import_index(fileobj=io.BytesIO(points))
    file.seek(start)
    return file


class ZstdEntrances:
    """Reads a zstd file frame by frame.

    Args:
        file: The open file.
    """

    def __init__(self, file: RangedFile) -> None:
        self._file = file
        self._frames = zstd_frames(file)
        self._places: deque[EntryPoint] = deque()
        self._frame: Any = None
        self._unpacked = 0

    def read(self, size: int, /) -> bytes:
        """Reads at most `size` bytes, none of a further frame.

        Raises:
            EOFError: if the file ends within a frame.
            zstandard.ZstdError: if it is damaged.
        """
        while True:
            data: bytes = self._frame.read(size) if self._frame else b""
            if data:
                self._unpacked += len(data)
                return data
            frame = next(self._frames, None)
            if frame is None:
                return b""
            self._places.append(EntryPoint(frame[0], self._unpacked))
            self._frame = open_zstd(self._file, *frame)

    def has_new(self, last: int, position: int) -> bool:
        """Returns whether a frame begins in between."""
        return last < self.place(position).unpacked

    def place(self, position: int) -> EntryPoint:
        """Returns the beginning of the frame that holds `position`."""
        while len(self._places) > 1 and self._places[1].unpacked <= position:
            self._places.popleft()
        return self._places[0]

    def points(self) -> bytes:
        """Returns nothing."""
        return b""


def open_zstd(file: RangedFile, start: int, stop: int) -> Any:
    """Opens the zstd frames in a range of a file."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    part: Any = _Range(file, start, stop)
    return decompressor.stream_reader(part, read_across_frames=True)


def zstd_frames(file: RangedFile) -> Iterator[tuple[int, int]]:
    """Finds the frames of a zstd file by the sizes in their blocks' headers (RFC 8878, 3.1).

    Yields:
        Where each frame with content begins and ends.

    Raises:
        EOFError: if the file ends within a frame.
    """
    at = 0
    while at < file.size:
        head = file.read(at, 18)
        if head.startswith(ZSTD_STARTS) and not head.startswith(ZSTD_START):
            at += 8 + int.from_bytes(head[4:8], "little")
            continue
        start = at
        parameters = zstandard.get_frame_parameters(head)
        at += zstandard.frame_header_size(head)
        last = False
        while not last:
            block = int.from_bytes(_exactly(file, at, 3), "little")
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            # A block of kind 1 is one byte that is repeated.
            at += 3 + (1 if kind == 1 else size)
        at += 4 if parameters.has_checksum else 0
        if at > file.size:
            raise EOFError("the last frame is not complete")
        yield start, at


def _exactly(file: RangedFile, at: int, size: int) -> bytes:
    data = file.read(at, size)
    if len(data) < size:
        raise EOFError("the last frame is not complete")
    return data


class _Range:
    """Reads a part of a file as a stream.

    Args:
        file: The file.
        start: Where the part begins.
        stop: Where it ends.
    """

    def __init__(self, file: RangedFile, start: int, stop: int) -> None:
        self._file = file
        self._at = start
        self._stop = stop

    def read(self, size: int = -1) -> bytes:
        """Reads at most `size` bytes."""
        left = self._stop - self._at
        data = self._file.read(self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data
