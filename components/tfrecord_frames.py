"""Reads and writes the frames of TFRecord files without TensorFlow.

A frame is the record's length, a checksum of the length, the record, and a checksum of the record:
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import gzip
import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, BinaryIO, Final

import google_crc32c

HEAD_BYTES: Final = 12
"""Bytes of a frame before its record: the length and the length's checksum."""
TAIL_BYTES: Final = 4
"""Bytes of a frame after its record: the record's checksum."""

_LENGTH: Final = struct.Struct("<Q")
_HEAD: Final = struct.Struct("<QI")
_CRC: Final = struct.Struct("<I")
_GZIP_START: Final = b"\x1f\x8b\x08"
_EITHER: Final = zlib.MAX_WBITS | 32
"""Makes zlib take gzip's header and its own."""
_SKIPPED_BYTES: Final = 1024 * 1024
_PACKED_BYTES: Final = 64 * 1024
_TRUNCATED: Final = "the file ends inside a record"


class FrameError(ValueError):
    """Reports a frame length that does not match its checksum, so later frames are lost."""


def frame(records: Iterable[bytes]) -> bytes:
    """Returns the records encoded as the content of a TFRecord file."""
    parts: list[bytes] = []
    for record in records:
        parts += (_head(len(record)), record, _CRC.pack(_masked_crc(record)))
    return b"".join(parts)


def read_frames(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[bytes, str]]:
    """Reads the records of a TFRecord file and verifies their checksums.

    Args:
        stream: The file, decompressed; it need not be seekable.
        max_bytes: Larger records are skipped.

    Yields:
        Each record and an empty string, or the reason why the record is unusable: `too_large`
        (the record is then empty) or `checksum`.

    Raises:
        EOFError: if the file ends inside a record.
        FrameError: if the file is damaged or not a TFRecord file.
    """
    while head := stream.read(HEAD_BYTES):
        if len(head) < HEAD_BYTES:
            raise EOFError(_TRUNCATED)
        length, crc = _HEAD.unpack(head)
        if _masked_crc(head[: _LENGTH.size]) != crc:
            raise FrameError("a record's length does not match its checksum")
        if length > max_bytes:
            _skip(stream, length + TAIL_BYTES)
            yield b"", "too_large"
            continue
        data = stream.read(length + TAIL_BYTES)
        if len(data) < length + TAIL_BYTES:
            raise EOFError(_TRUNCATED)
        record = data[:-TAIL_BYTES]
        is_sound = _masked_crc(record) == _CRC.unpack(data[-TAIL_BYTES:])[0]
        yield record, "" if is_sound else "checksum"


def open_frames(stream: Any) -> BinaryIO:
    """Returns a file's content, decompressed if it is packed with gzip or zlib, whatever its name.

    The first bytes of a frame are a length, which may happen to look like the mark of either; but
    then its checksum follows.

    Args:
        stream: The file, buffered, at its start.
    """
    head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
    if begins_frame(head):
        return stream
    if head.startswith(_GZIP_START):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    if _begins_zlib(head):
        return io.BufferedReader(_ZlibFile(stream))
    return stream


def holds_frames(head: bytes) -> bool:
    """Returns whether a file with these first bytes is a TFRecord file, packed or not.

    Args:
        head: The first bytes; of a packed file as many as unpack to the head of a frame, for which
            some hundred are always enough.
    """
    if begins_frame(head):
        return True
    if not head.startswith(_GZIP_START) and not _begins_zlib(head):
        return False
    try:
        return begins_frame(zlib.decompressobj(_EITHER).decompress(head, HEAD_BYTES))
    except zlib.error:
        return False


def begins_frame(head: bytes) -> bool:
    """Returns whether a file with these first bytes is a TFRecord file: its checksum tells."""
    if len(head) < HEAD_BYTES:
        return False
    return bool(_masked_crc(head[: _LENGTH.size]) == _HEAD.unpack_from(head)[1])


def _begins_zlib(head: bytes) -> bool:
    """Returns whether the first two bytes name zlib's method and window, a multiple of 31."""
    return bool(
        head and head[0] & 0x8F == zlib.DEFLATED and not int.from_bytes(head[:2], "big") % 31
    )


def record_spans(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Finds the records of a TFRecord file by their lengths, without reading or verifying them.

    Args:
        file: The file, seekable and not compressed.

    Yields:
        Offset and size of each record in bytes.
    """
    start = 0
    while True:
        file.seek(start)
        head = file.read(HEAD_BYTES)
        if len(head) < HEAD_BYTES:
            return
        (length,) = _LENGTH.unpack_from(head)
        yield start + HEAD_BYTES, length
        start += HEAD_BYTES + length + TAIL_BYTES


class _ZlibFile(io.RawIOBase):
    """Decompresses a zlib stream, as TFRecordWriter writes it with `options="ZLIB"`."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._unpacker = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer; raises EOFError if the stream is cut short, zlib.error if damaged."""
        data = b""
        while not data and not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._stream.read(_PACKED_BYTES)
            if not packed:
                raise EOFError("the compressed stream has no end")
            data = self._unpacker.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)


# Many images of a dataset have the same size, and the checksum of a length costs as much as that of
# a small record.
@lru_cache(maxsize=65536)
def _head(length: int) -> bytes:
    packed = _LENGTH.pack(length)
    return packed + _CRC.pack(_masked_crc(packed))


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _skip(stream: BinaryIO, size: int) -> None:
    while size > 0:
        piece = stream.read(min(size, _SKIPPED_BYTES))
        if not piece:
            raise EOFError(_TRUNCATED)
        size -= len(piece)
