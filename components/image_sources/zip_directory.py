"""Locates and parses the central directory of a zip, treating its bytes as untrusted.

The zip reader plans by walking it once, and each unit parses only its own part. `zipfile` would
create an object per member of the whole archive in every worker. Format: PKWARE APPNOTE 6.3.10.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from trainer.errors import InputError
from trainer.storage.interface import RangedFile

LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_END: Final = struct.Struct("<4s4H2LH")
_END_SIGNATURE: Final = b"PK\x05\x06"
_LOCATOR: Final = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE: Final = b"PK\x06\x07"
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE: Final = b"PK\x06\x06"
_LONGEST_COMMENT: Final = 65535

_ENTRY_SIGNATURE: Final = b"PK\x01\x02"
_ENTRY: Final = struct.Struct("<4sH2xHH4xLLLHHH6xHL")
_LENGTHS: Final = struct.Struct("<4s16xLLHHH8xL")
ENTRY_BYTES: Final = 46
_LONGEST_START: Final = ENTRY_BYTES + 2 * 65_535
"""Most bytes of an entry up to the end of its extra fields."""
_WINDOW: Final = 4 * 1024 * 1024
_FULL32: Final = 0xFFFFFFFF
_FULL16: Final = 0xFFFF
_UTF8: Final = 0x800
_ENCRYPTED: Final = 0x1
_UNIX: Final = 3
_WRAP: Final = 1 << 32
_UNICODE_PATH: Final = b"up"


class Directory(NamedTuple):
    """Locates the central directory in the file.

    Attributes:
        start: Offset of its first byte in the file.
        stop: Offset of the byte after its last.
        entries: Number of entries that the end record claims.
        shift: Number to add to stored offsets, for archives with prepended data.
        wraps: Whether offsets are stored modulo 4 GiB, as macOS's Archive Utility does.
    """

    start: int
    stop: int
    entries: int
    shift: int
    wraps: bool = False


class DirectoryPart(NamedTuple):
    """Locates a part of the central directory.

    Attributes:
        start: Offset of its first byte in the file.
        stop: Offset of the byte after its last.
        entries: Number of its entries.
        shift: Number to add to the stored offset of its first entry.
        names: The names of its entries as they are stored.
        are_plain: Whether names are shown as they are stored; otherwise different ones may look
            alike, such as those of several encodings.
    """

    start: int
    stop: int
    entries: int
    shift: int
    names: list[bytes]
    are_plain: bool


class Entry(NamedTuple):
    """Describes one member as the central directory states it.

    Attributes:
        name: The member's path, `/`-separated.
        offset: Offset of its local header in the file.
        packed: Compressed size in bytes.
        unpacked: Uncompressed size in bytes, as claimed.
        crc: CRC-32 of the uncompressed bytes.
        method: Compression method: 0 stored, 8 deflated, others unsupported.
        encrypted: Whether the member is password-protected.
        mode: Unix mode; 0 if unknown.
    """

    name: str
    offset: int
    packed: int
    unpacked: int
    crc: int
    method: int
    encrypted: bool
    mode: int


def find_directory(path: str, file: RangedFile) -> Directory:
    """Finds the central directory from the end of the file.

    Args:
        path: The archive's path, for error messages.
        file: The archive.

    Raises:
        InputError: if the file is not a zip, is truncated, is one of several volumes, or holds
            several zips.
    """
    tail_start = max(0, file.size - _LONGEST_COMMENT - _END.size - _LOCATOR.size)
    tail = file.read(tail_start, file.size - tail_start)
    at = tail.rfind(_END_SIGNATURE)
    if at < 0 or at + _END.size > len(tail):
        raise InputError(
            f"{path}: not a zip archive, or its end is missing; copy or download it again"
        )
    _, disk, first_disk, _, entries, length, start, comment = _END.unpack_from(tail, at)
    end = tail_start + at
    behind = at + _END.size + comment
    if at >= _LOCATOR.size and tail.startswith(_LOCATOR_SIGNATURE, at - _LOCATOR.size):
        _, _, stated, _ = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        # Right before its locator, unless it has fields of other tools; what is stated does not
        # count what was put in front of the archive.
        for end in (tail_start + at - _LOCATOR.size - _END64.size, stated):
            record = file.read(end, _END64.size) if end >= 0 else b""
            if len(record) == _END64.size and record.startswith(_END64_SIGNATURE):
                break
        else:
            raise InputError(f"{path}: its zip64 end record is damaged; copy it again")
        *_, disk, first_disk, _, entries, length, start = _END64.unpack(record)
    if disk not in (0, _FULL16) or first_disk not in (0, _FULL16):
        raise InputError(f"{path}: one volume of a divided zip; join the volumes first")
    shift = end - length - start
    if shift < 0:
        raise InputError(f"{path}: its central directory is damaged or cut short; copy it again")
    if shift and shift % _WRAP == 0:
        # Nobody puts gigabytes in front of a zip; its last offset has lost its upper half.
        return Directory(start + shift, end, entries, 0, wraps=True)
    if (shift and file.read(0, 4) == LOCAL_SIGNATURE) or tail.startswith(LOCAL_SIGNATURE, behind):
        raise InputError(
            f"{path}: several zips in one file, which lists the images of only one of them;"
            " unpack all, or name the zips that were joined"
        )
    return Directory(start + shift, end, entries, shift)


def plan_parts(
    path: str, file: RangedFile, directory: Directory, members: int, max_bytes: int
) -> Iterator[DirectoryPart]:
    """Divides the directory into parts, reading it through a small window.

    Args:
        path: The archive's path, for error messages.
        file: The archive.
        directory: The location of its central directory.
        members: Largest number of entries in a part.
        max_bytes: A part ends when its members' larger size, compressed or uncompressed,
            exceeds this.

    Yields:
        The parts in the order of the directory.

    Raises:
        InputError: if an entry is damaged, or a member hides how often offsets passed 4 GiB.
    """
    unpack = _LENGTHS.unpack_from
    window, base = b"", directory.start
    at = part = directory.start
    count = weight = previous = 0
    shift = part_shift = directory.shift
    names: list[bytes] = []
    has_paths = False
    while at < directory.stop:
        local = at - base
        if local + _LONGEST_START > len(window) and base + len(window) < directory.stop:
            window, base, local = file.read(at, min(_WINDOW, directory.stop - at)), at, 0
        if len(window) - local < ENTRY_BYTES or window[local : local + 4] != _ENTRY_SIGNATURE:
            raise InputError(
                f"{path}: its central directory is damaged at byte {at}; copy it again"
            )
        _, packed, unpacked, name, extra, comment, offset = unpack(window, local)
        if directory.wraps and offset < previous:
            shift += _WRAP
        previous = offset
        if not count:
            part_shift = shift
        weight += packed if packed > unpacked else unpacked
        local += ENTRY_BYTES
        names.append(window[local : local + name])
        local += name
        has_paths = has_paths or window.find(_UNICODE_PATH, local, local + extra) >= 0
        at += ENTRY_BYTES + name + extra + comment
        count += 1
        if count == members or weight >= max_bytes:
            yield DirectoryPart(part, at, count, part_shift, names, _are_plain(names, has_paths))
            part, count, weight, names, has_paths = at, 0, 0, [], False
    if directory.wraps and directory.start - previous - shift >= _WRAP:
        raise InputError(
            f"{path}: holds a file of 4 GiB or more without zip64 records, as macOS writes them, so"
            " that the places of what follows are unknown; zip the images without it"
        )
    if count:
        yield DirectoryPart(part, at, count, part_shift, names, _are_plain(names, has_paths))


def _are_plain(names: list[bytes], has_paths: bool) -> bool:
    joined = b"".join(names)
    return not has_paths and joined.isascii() and b"\\" not in joined


def parse_entries(
    path: str, data: bytes, shift: int, *, wraps: bool = False, encoding: str | None = None
) -> Iterator[Entry]:
    """Parses one part of the directory.

    Args:
        path: The archive's path, for error messages.
        data: The bytes of one part.
        shift: `DirectoryPart.shift`.
        wraps: `Directory.wraps`.
        encoding: Encoding of names that are not marked as UTF-8; None tries UTF-8 and cp437.

    Yields:
        Entries in the order of the directory.

    Raises:
        InputError: if there is something else than when the parts were planned.
    """
    at, end = 0, len(data)
    previous = 0
    while at < end:
        if end - at < ENTRY_BYTES or data[at : at + 4] != _ENTRY_SIGNATURE:
            raise InputError(f"{path}: has changed since it was opened; start again")
        (
            _,
            system,
            flags,
            method,
            crc,
            packed,
            unpacked,
            name_length,
            extra_length,
            comment_length,
            mode,
            offset,
        ) = _ENTRY.unpack_from(data, at)
        at += ENTRY_BYTES
        raw = data[at : at + name_length]
        at += name_length
        extra = data[at : at + extra_length]
        if wraps:
            if offset < previous:
                shift += _WRAP
            previous = offset
        elif packed == _FULL32 or unpacked == _FULL32 or offset == _FULL32:
            unpacked, packed, offset = _zip64(extra, unpacked, packed, offset)
        at += extra_length + comment_length
        yield Entry(
            _decode_name(raw, flags, extra, encoding),
            offset + shift,
            packed,
            unpacked,
            crc,
            method,
            bool(flags & _ENCRYPTED),
            mode if system >> 8 == _UNIX else 0,
        )


def _decode_name(raw: bytes, flags: int, extra: bytes, encoding: str | None) -> str:
    """Decodes a name; UTF-8 is tried first, because many tools write it without the flag."""
    name = _unicode_path(raw, extra) if _UNICODE_PATH in extra else None
    if name is None and encoding and not flags & _UTF8 and not raw.isascii():
        # Text in another encoding may happen to be valid UTF-8.
        with contextlib.suppress(UnicodeDecodeError):
            name = raw.decode(encoding)
    if name is None:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = raw.decode("utf-8", "surrogateescape") if flags & _UTF8 else raw.decode("cp437")
    return name.replace("\\", "/") if "\\" in name else name


def _unicode_path(raw: bytes, extra: bytes) -> str | None:
    """Reads Info-ZIP's Unicode Path, the extra field 0x7075: version, CRC-32 of `raw`, UTF-8."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2sH", extra, at)
        content = extra[at + 4 : at + 4 + length]
        if kind == _UNICODE_PATH and len(content) > 5 and content[0] == 1:
            (checksum,) = struct.unpack_from("<L", content, 1)
            if checksum == zlib.crc32(raw):
                with contextlib.suppress(UnicodeDecodeError):
                    return content[5:].decode("utf-8")
        at += 4 + length
    return None


def _zip64(extra: bytes, unpacked: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Reads sizes and offsets that do not fit into 32 bits from the extra field 0x0001."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = list(
                struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4)
            )
            wide = [
                values.pop(0) if value == _FULL32 and values else value
                for value in (unpacked, packed, offset)
            ]
            return wide[0], wide[1], wide[2]
        at += 4 + length
    return unpacked, packed, offset
