"""Streams the members of a tar with bounded memory, whatever the headers claim.

`tarfile` reads extended headers whole and keeps every member's header, so a crafted archive could
exhaust the memory. Formats: POSIX.1-2001 (pax), ustar, GNU and the old v7 format.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

import zstandard

from components.image_sources.config import RATIO_FLOOR, InputConfig
from components.image_sources.magic_numbers import BZIP2_START, GZIP_START, XZ_START, ZSTD_START
from trainer.errors import InputError
from trainer.storage import files

BLOCK: Final = 512

_LONGEST_HEADER: Final = 1024 * 1024
_SKIP: Final = 1024 * 1024
_ZSTD_WINDOW: Final = 1 << 27
# bz2 reports damage as a plain OSError; that the file cannot be read is an InputError already.
_PACKING_ERRORS: Final = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError)
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
    b"D": "folder",
    b"V": "folder",
}
_WITHOUT_DATA: Final = frozenset((b"1", b"2", b"3", b"4", b"6", b"5", b"V"))
"""Types that never have data, though some old archives give links a size."""


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

    Archives that were joined with `cat` are read to the last one, as `tar -i` does.

    Raises:
        InputError: if the archive is damaged or truncated, or its end is zero-filled as that of an
            unfinished download. Nothing of it is accepted, because the missing members are
            unknown.
    """
    counter = _Counted(files.open_stream(path, config.storage))
    unpacked = _unpacked(io.BufferedReader(counter, _SKIP))
    try:
        yield from _members(path, _Blocks(path, unpacked, counter, config), config)
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
            size -= len(self.read(min(size, _SKIP)))


def _members(path: str, blocks: _Blocks, config: InputConfig) -> Iterator[TarMember]:
    """Parses headers and reads files."""
    limit = config.limits.max_bytes
    override: dict[str, str] = {}
    count = 0
    while True:
        header = blocks.read(BLOCK)
        if not any(header):
            following = _after_end(path, blocks, count, config)
            if following is None:
                return
            header, override = following, {}
        kind, size = header[156:157], _number(header[124:136])
        if size < 0 or _checksum(header) not in (_number(header[148:156]), None):
            what = f"damaged after member {count}" if count else "no tar archive, or damaged"
            raise InputError(f"{path}: {what}; copy it again")
        padded = -(-size // BLOCK) * BLOCK
        if kind in (b"x", b"L", b"K", b"g"):
            if size > _LONGEST_HEADER:
                raise InputError(f"{path}: an extended header of {size} bytes; not a valid tar")
            content = blocks.read(padded)[:size]
            if kind == b"x":
                override.update(_pax(content))
            elif kind == b"L":
                override["path"] = _text(content.rstrip(b"\0"))
            continue
        count += 1
        if count > config.limits.max_members:
            raise InputError(
                f"{path}: more than {config.limits.max_members} members; raise"
                " limits.max_members if that is meant"
            )
        name = _in_encoding(override.get("path") or _name(header), config.names_encoding)
        if override.get("size", "").isdigit():
            size = int(override["size"])
            padded = -(-size // BLOCK) * BLOCK
        sparse = any(key.startswith("GNU.sparse") for key in override)
        override = {}
        reason = "unreadable" if sparse else _KINDS.get(kind, "unreadable")
        if kind == b"\0" and name.endswith("/"):
            # The v7 format has no type for folders.
            reason = "folder"
        if reason in ("link", "device", "folder"):
            if kind not in _WITHOUT_DATA:
                blocks.skip(padded)
            yield TarMember(name, reason, b"", f"type {kind.decode('ascii', 'replace')!r}")
            continue
        if reason or size > limit:
            blocks.skip(padded)
            detail = f"type {kind!r}" if reason else f"{size} bytes; limits.max_bytes is {limit}"
            yield TarMember(name, reason or "too_large", b"", detail)
            continue
        yield TarMember(name, "", blocks.read(padded)[:size], "")


def _after_end(path: str, blocks: _Blocks, count: int, config: InputConfig) -> bytes | None:
    """Reads on after an end marker: returns the header of a further archive, None at the end.

    Raises:
        InputError: if there is anything else than zeros, or more of them than tar fills a record
            with.
    """
    zeros = BLOCK
    while block := blocks.read_up_to(BLOCK):
        if any(block):
            if is_header(block):
                return block
            raise InputError(
                f"{path}: what follows the end marker behind member {count} is no tar; copy the"
                " archive again, or cut the rest off"
            )
        zeros += len(block)
    limit = config.limits.max_tar_padding
    if zeros > limit:
        raise InputError(
            f"{path}: ends with {zeros:,} zero bytes after member {count}, as an unfinished"
            f" download does; copy it again, or raise limits.max_tar_padding ({limit:,}) if it is"
            " complete"
        )
    return None


def is_header(block: bytes) -> bool:
    """Returns whether a block of 512 bytes is a member's header, of any tar format."""
    if len(block) < BLOCK or not any(block):
        return False
    return _checksum(block) == _number(block[148:156]) and _number(block[124:136]) >= 0


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
    return _text(name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _in_encoding(name: str, encoding: str | None) -> str:
    """Decodes a name that is not UTF-8 in the configured encoding."""
    if encoding is None or name.isascii():
        return name
    raw = name.encode("utf-8", "surrogateescape")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(encoding, "replace")
    return name


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
