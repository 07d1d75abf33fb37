"""Streams the members of a tar with bounded memory, whatever the headers claim.

`tarfile` reads extended headers whole and keeps every member's header, so a crafted archive could
exhaust the memory. Formats: POSIX.1-2001 (pax), ustar, GNU and the old v7 format.
"""

import contextlib
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from components.image_sources.config import InputConfig
from components.image_sources.seek_points import EntryPoint
from components.image_sources.unpacking import ByteStream, open_unpacked
from trainer.errors import InputError

BLOCK: Final = 512

_LONGEST_HEADER: Final = 1024 * 1024
_ADLER: Final = 65_521
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
_LINKS: Final = {
    b"1": "a hard link; make the tar with --hard-dereference",
    b"2": "a symbolic link; make the tar with --dereference",
}
_SPARSE: Final = b"S"
_SPARSE_MORE: Final = 482
_SPARSE_LAST: Final = 504
"""Where the header of a sparse file, and a block of its map, tell whether another block follows."""


class TarMember(NamedTuple):
    """Holds one member of a tar.

    Attributes:
        name: The member's path.
        kind: Empty for a file; `folder`, or a reason to reject: `link`, `device`, `too_large`,
            `unreadable`.
        data: The member's bytes; empty unless it is a file.
        detail: Further information on a member that cannot be read.
        start: Offset of its first header in the unpacked archive.
    """

    name: str
    kind: str
    data: bytes
    detail: str
    start: int


def members(
    path: str,
    config: InputConfig,
    *,
    start: int = 0,
    stop: int = -1,
    entry: EntryPoint | None = None,
    with_data: bool = True,
) -> Iterator[TarMember]:
    """Streams the members of a tar, compressed or not.

    Args:
        path: The archive; its first bytes reveal the compression.
        config: Limits and storage.
        start: Offset of the first member; only of a local archive.
        stop: Offset of the first member that is not wanted; -1 for none.
        entry: How `start` is reached in a compressed archive.
        with_data: Whether to read the files; otherwise their data is empty.

    Yields:
        Members in order; a file above `limits.max_bytes` comes without its data.

    Archives that were joined with `cat` are read to the last one, as `tar -i` does.

    Raises:
        InputError: if the archive is damaged or truncated, or its end is zero-filled as that of an
            unfinished download. None of its members is accepted, because the missing ones are
            unknown.
    """
    with open_unpacked(path, config, start, entry) as blocks:
        yield from _TarParser(path, blocks, config, with_data=with_data).members(stop)


def headers(path: str, blocks: ByteStream, config: InputConfig) -> Iterator[TarMember]:
    """Streams the members of an open tar without their data.

    Raises:
        InputError: as for `members`.
    """
    return _TarParser(path, blocks, config, with_data=False).members(-1)


class _TarParser:
    """Parses headers and reads files.

    Args:
        path: The archive, for error messages.
        blocks: Its content.
        config: Limits, and the encoding of names.
        with_data: Whether to read the files.
    """

    def __init__(
        self, path: str, blocks: ByteStream, config: InputConfig, *, with_data: bool
    ) -> None:
        self._path = path
        self._blocks = blocks
        self._config = config
        self._with_data = with_data

    def members(self, stop: int) -> Iterator[TarMember]:
        """Parses headers and reads files, up to the member that begins at `stop`."""
        limit = self._config.limits.max_bytes
        override: dict[str, str] = {}
        count = 0
        start = self._blocks.position
        while stop < 0 or self._blocks.position < stop:
            if not override:
                start = self._blocks.position
            header = self._blocks.read(BLOCK)
            if not any(header):
                following = self._after_end(count)
                if following is None:
                    return
                header, override = following, {}
                start = self._blocks.position - BLOCK
                if 0 <= stop <= start:
                    return
            kind, size = header[156:157], _number(header[124:136])
            if size < 0 or not _has_checksum(header):
                what = f"damaged after member {count}" if count else "no tar archive, or damaged"
                raise InputError(f"{self._path}: {what}; copy it again")
            padded = -(-size // BLOCK) * BLOCK
            if kind in (b"x", b"L", b"K", b"g"):
                if size > _LONGEST_HEADER:
                    raise InputError(
                        f"{self._path}: an extended header of {size} bytes; not a valid tar"
                    )
                content = self._blocks.read(padded)[:size]
                if kind == b"x":
                    override.update(_pax(content, self._config.names_encoding))
                elif kind == b"L":
                    override["path"] = _text(content.rstrip(b"\0"), self._config.names_encoding)
                continue
            count += 1
            if count > self._config.limits.max_members:
                raise InputError(
                    f"{self._path}: more than {self._config.limits.max_members} members; raise"
                    " limits.max_members if that is meant"
                )
            name = (
                override.get("GNU.sparse.name")
                or override.get("path")
                or _name(header, self._config.names_encoding)
            )
            if override.get("size", "").isdigit():
                size = int(override["size"])
                padded = -(-size // BLOCK) * BLOCK
            sparse = kind == _SPARSE or any(key.startswith("GNU.sparse") for key in override)
            if kind == _SPARSE:
                self._pass_map(header)
            override = {}
            reason = "unreadable" if sparse else _KINDS.get(kind, "unreadable")
            if kind == b"\0" and name.endswith("/"):
                # The v7 format has no type for folders.
                reason = "folder"
            if reason in ("link", "device", "folder"):
                if kind not in _WITHOUT_DATA:
                    self._blocks.skip(padded)
                detail = _LINKS.get(kind) or f"type {kind.decode('ascii', 'replace')!r}"
                yield TarMember(name, reason, b"", detail, start)
                continue
            if reason or size > limit:
                self._blocks.skip(padded)
                detail = f"{size} bytes; limits.max_bytes is {limit}"
                if sparse:
                    detail = "a sparse file; make the tar without --sparse"
                elif reason:
                    detail = f"type {kind!r}"
                yield TarMember(name, reason or "too_large", b"", detail, start)
                continue
            data = b""
            if self._with_data:
                data = self._blocks.read(padded)[:size]
            else:
                self._blocks.skip(padded)
            yield TarMember(name, "", data, "", start)

    def _pass_map(self, header: bytes) -> None:
        """Passes over the blocks between the header of a sparse file and its data."""
        more = header[_SPARSE_MORE]
        while more:
            more = self._blocks.read(BLOCK)[_SPARSE_LAST]

    def _after_end(self, count: int) -> bytes | None:
        """Reads on after an end marker: returns the header of a further archive, None at the end.

        Raises:
            InputError: if there is anything else than zeros, or more of them than tar fills a
                record with.
        """
        zeros = BLOCK
        while block := self._blocks.read_up_to(BLOCK):
            if any(block):
                if is_header(block):
                    return block
                raise InputError(
                    f"{self._path}: what follows the end marker behind member {count} is no tar;"
                    " copy the archive again, or cut the rest off"
                )
            zeros += len(block)
        limit = self._config.limits.max_tar_padding
        if zeros > limit:
            raise InputError(
                f"{self._path}: ends with {zeros:,} zero bytes after member {count}, as an"
                " unfinished download does; copy it again, or raise limits.max_tar_padding"
                f" ({limit:,}) if it is complete"
            )
        return None


def is_header(block: bytes) -> bool:
    """Returns whether a block of 512 bytes is a member's header, of any tar format."""
    if len(block) < BLOCK or not any(block):
        return False
    return _has_checksum(block) and _number(block[124:136]) >= 0


def _number(text: bytes) -> int:
    """Parses an octal number or GNU's base-256 encoding; returns -1 if it is neither."""
    if text[0] & 0x80:
        return int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
    digits = text.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return -1


def _has_checksum(header: bytes) -> bool:
    """Returns whether a header holds the sum of its bytes, with spaces in place of the sum.

    The low half of Adler-32 is that sum modulo 65,521; zlib is ten times as fast as `sum`.
    """
    stored = _number(header[148:156])
    total = zlib.adler32(header[:148] + b"        " + header[156:], 0) & 0xFFFF
    return stored >= 0 and stored % _ADLER == total


def _name(header: bytes, encoding: str | None) -> str:
    """Joins prefix and name; GNU's old format uses the prefix field for other data."""
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return _text(name, encoding)


def _text(name: bytes, encoding: str | None) -> str:
    """Decodes a name, by the configured encoding first: such a name may be valid UTF-8, too."""
    if encoding and not name.isascii():
        with contextlib.suppress(UnicodeDecodeError):
            return name.decode(encoding)
    return name.decode("utf-8", "surrogateescape")


def _pax(content: bytes, encoding: str | None) -> dict[str, str]:
    """Parses the records of an extended header, each `length key=value` and a newline.

    Their values are UTF-8, except where a tool copied the bytes of a name that is not.
    """
    values: dict[str, str] = {}
    at = 0
    while at < len(content):
        digits, _, _ = content[at : at + 12].partition(b" ")
        if not digits.isdigit() or int(digits) <= len(digits) + 1:
            break
        record = content[at + len(digits) + 1 : at + int(digits) - 1]
        key, _, value = record.partition(b"=")
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            text = _text(value, encoding)
        values[key.decode("utf-8", "replace")] = text
        at += int(digits)
    return values
