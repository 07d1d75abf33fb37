"""Streams the members of a tar with bounded memory, whatever the headers claim.

`tarfile` reads extended headers whole and keeps every member's header, so a crafted archive could
exhaust the memory. Formats: POSIX.1-2001 (pax), ustar and GNU.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

import zstandard

from components.image_sources import files
from components.image_sources.config import RATIO_FLOOR, InputConfig
from components.image_sources.errors import InputError

BLOCK: Final = 512
_LONGEST_HEADER: Final = 1024 * 1024
_SKIP: Final = 1024 * 1024
_ZSTD_WINDOW: Final = 1 << 27
_KINDS: Final = {
    b"0": "",
    b"\0": "",
    b"7": "",
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"6": "device",
    b"5": "folder",
}


class TarMember(NamedTuple):
    """Holds one member of a tar.

    Attributes:
        name: The member's path.
        kind: Empty for a file; `folder`, or a reason to reject: `link`, `device`, `too_large`,
            `unreadable`.
        data: The member's bytes; empty unless it is a file.
        detail: Further information on a member that cannot be read.
    """

    name: str
    kind: str
    data: bytes
    detail: str


def members(path: str, config: InputConfig) -> Iterator[TarMember]:
    """Streams the members of a tar, compressed or not.

    Args:
        path: The archive; its first bytes reveal the compression.
        config: Limits and storage.

    Yields:
        Members in order; a file above `limits.max_bytes` comes without its data.

    Raises:
        InputError: if the archive is damaged or truncated. Nothing of it is accepted, because
            the missing members are unknown.
    """
    counter = _Counted(files.open_stream(path, config.storage))
    unpacked = _unpacked(io.BufferedReader(counter, _SKIP))
    try:
        yield from _members(path, _Blocks(path, unpacked, counter, config), config)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
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
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream, mode="rb")
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return decompressor.stream_reader(stream, read_across_frames=True)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(stream)
    return stream


class _Blocks:
    """Reads exact numbers of bytes from a decompressed stream and enforces the ratio limit.

    Args:
        path: The archive, for error messages.
        stream: The decompressed stream.
        packed: The compressed stream underneath.
        config: Limits.
    """

    def __init__(self, path: str, stream: _Readable, packed: _Counted, config: InputConfig) -> None:
        self._path = path
        self._stream = stream
        self._packed = packed
        self._ratio = config.limits.max_ratio
        self._given = 0

    def read(self, size: int) -> bytes:
        """Reads `size` bytes.

        Raises:
            InputError: if there are fewer, or the ratio is that of a decompression bomb.
        """
        data = self._stream.read(size)
        while 0 < len(data) < size and (more := self._stream.read(size - len(data))):
            data += more
        self._given += len(data)
        if len(data) < size:
            raise InputError(
                f"{self._path}: cut short after {self._given} bytes; copy or download it again"
            )
        if self._given > RATIO_FLOOR and self._given > self._ratio * self._packed.consumed:
            raise InputError(
                f"{self._path}: a decompression bomb: {self._packed.consumed} bytes unpack to more"
                f" than {self._given}; raise limits.max_ratio if that is meant"
            )
        return data

    def skip(self, size: int) -> None:
        """Reads and discards `size` bytes."""
        while size > 0:
            size -= len(self.read(min(size, _SKIP)))


def _members(path: str, blocks: _Blocks, config: InputConfig) -> Iterator[TarMember]:
    """Parses headers and reads files."""
    limit = config.limits.max_bytes
    override: dict[str, str] = {}
    count = 0
    while True:
        header = blocks.read(BLOCK)
        if not any(header):
            return
        kind, size = header[156:157], _number(header[124:136])
        if size < 0 or _checksum(header) not in (_number(header[148:156]), None):
            what = f"damaged after member {count}" if count else "no tar archive, or damaged"
            raise InputError(f"{path}: {what}; copy it again")
        padded = -(-size // BLOCK) * BLOCK
        if kind in (b"x", b"L", b"K", b"g"):
            if size > _LONGEST_HEADER:
                raise InputError(f"{path}: an extended header of {size} bytes; not a sound tar")
            content = blocks.read(padded)[:size]
            if kind == b"x":
                override.update(_pax(content))
            elif kind == b"L":
                override["path"] = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        count += 1
        if count > config.limits.max_members:
            raise InputError(
                f"{path}: more than {config.limits.max_members} members; raise"
                " limits.max_members if that is meant"
            )
        name = override.get("path") or _name(header)
        if override.get("size", "").isdigit():
            size = int(override["size"])
            padded = -(-size // BLOCK) * BLOCK
        sparse = any(key.startswith("GNU.sparse") for key in override)
        override = {}
        reason = "unreadable" if sparse else _KINDS.get(kind, "unreadable")
        if reason in ("link", "device", "folder"):
            # Some old archives give links a size, but they never have data.
            yield TarMember(name, reason, b"", f"type {kind.decode('ascii', 'replace')!r}")
            continue
        if reason or size > limit:
            blocks.skip(padded)
            detail = f"type {kind!r}" if reason else f"{size} bytes; limits.max_bytes is {limit}"
            yield TarMember(name, reason or "too_large", b"", detail)
            continue
        yield TarMember(name, "", blocks.read(padded)[:size], "")


def _number(text: bytes) -> int:
    """Parses an octal number or GNU's base-256 encoding; returns -1 if it is neither."""
    if text[0] & 0x80:
        return int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
    digits = text.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return -1


def _checksum(header: bytes) -> int:
    """Returns the sum of the header's bytes, with spaces in place of the checksum."""
    return sum(header[:148]) + 8 * 0x20 + sum(header[156:])


def _name(header: bytes) -> str:
    """Joins prefix and name; GNU's old format uses the prefix field for other data."""
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _pax(content: bytes) -> dict[str, str]:
    """Parses the records of an extended header, each `length key=value` and a newline."""
    values: dict[str, str] = {}
    at = 0
    while at < len(content):
        digits, _, _ = content[at : at + 12].partition(b" ")
        if not digits.isdigit() or int(digits) <= len(digits) + 1:
            break
        record = content[at + len(digits) + 1 : at + int(digits) - 1]
        key, _, value = record.partition(b"=")
        values[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += int(digits)
    return values
