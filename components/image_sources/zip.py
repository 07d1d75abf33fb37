"""Reads zip archives in parallel, each worker taking a part of the central directory.

Stored members are sliced from large reads, deflated ones are decompressed up to a limit; nothing
is written to disk.
"""

import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import RATIO_FLOOR, LimitsConfig
from components.image_sources.ignored import ignored_reason, is_side_file
from components.image_sources.naming import PathNaming, printable
from components.image_sources.origins import REPEATED
from components.image_sources.repeated_names import (
    RepeatedNames,
    UniqueNames,
    numbered_name,
    pack_counts,
    unnumbered,
)
from components.image_sources.zip_directory import (
    LOCAL_SIGNATURE,
    Entry,
    find_directory,
    parse_entries,
    plan_parts,
)
from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.interface import RangedFile

_WRAPS: Final = "w"
"""Marks units of archives that store offsets modulo 4 GiB."""
_STORED: Final = 0
_DEFLATED: Final = 8
_OTHER_METHODS: Final = {
    **{1: "Shrink", 6: "Implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA"},
    **{93: "Zstandard", 95: "XZ", 98: "PPMd"},
}
_LOCAL_BYTES: Final = 30
_LOCAL_LENGTHS: Final = struct.Struct("<HH")
# Members no further apart than this are fetched in one read. A local header may carry longer extra
# fields than the directory states; the slack covers that for the last member.
_GAP: Final = 64 * 1024
_SLACK: Final = 512
_READ: Final = 16 * 1024 * 1024


class ZipReader(Reader):
    """Reads a zip."""

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans the units of one archive."""
        file = files.open_ranged(path, self.config.storage)
        try:
            directory = find_directory(path, file)
            total = 0
            parts = plan_parts(
                path, file, directory, self.config.units.members, self.config.units.max_bytes
            )
            mode = _WRAPS if directory.wraps else ""
            repeated = RepeatedNames()
            for part in parts:
                total += part.entries
                if total > self.config.limits.max_members:
                    raise InputError(
                        f"{path}: more than {self.config.limits.max_members} members; raise"
                        " limits.max_members if that is meant"
                    )
                extra = f"{part.shift}{mode}".encode()
                unit = WorkUnit(0, path, "zip", part.start, part.stop, part.entries, extra=extra)
                names = part.names
                if not part.are_plain:
                    entries = self._entries(unit, file)
                    names = [printable(entry.name).encode() for entry in entries]
                if earlier := repeated.add(names):
                    counts = {name.decode(): count for name, count in earlier.items()}
                    unit = replace(unit, earlier=pack_counts(counts))
                yield unit
        finally:
            file.close()

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads the members in one part of the central directory."""
        naming, unique = PathNaming(self.config, unit.split), UniqueNames(unit.earlier)
        file = files.open_ranged(unit.source, self.config.storage)
        try:
            entries = self._entries(unit, file)
            previous_stop = 0
            while chunk := list(islice(entries, self.config.units.batch)):
                batch = MemberBatch(unit.source)
                repeated = _number(chunk, unique)
                wanted = [entry for entry in chunk if _is_wanted(entry, batch, self.config.limits)]
                fetched, previous_stop = _fetch(file, wanted, batch, previous_stop)
                for entry, packed in fetched:
                    data = _unpack(entry, packed, batch, self.config.limits.max_bytes)
                    if data is not None:
                        place = naming.place(entry.name)
                        batch.add(entry.name, data, place.label, place.split)
                        if entry.name in repeated:
                            batch.origins.add(REPEATED, repeated[entry.name])
                yield batch
        finally:
            file.close()

    def version(self, unit: WorkUnit) -> bytes:
        """Returns the unit's part of the directory: names, sizes and checksums of its members.

        The parts of a zip that grows keep their versions.
        """
        file = files.open_ranged(unit.source, self.config.storage)
        try:
            return file.read(unit.start, unit.stop - unit.start) + unit.earlier
        finally:
            file.close()

    def pick(self, path: str, names: set[str]) -> Iterator[MemberBatch]:
        """Reads only the members of some names, located through the central directory.

        Args:
            path: The archive.
            names: The names as `printable` and `numbered_name` return them.
        """
        stored, met = unnumbered(names), Counter[str]()
        file = files.open_ranged(path, self.config.storage)
        try:
            for unit in self.plan(path):
                named = []
                for entry in self._entries(unit, file):
                    if (shown := printable(entry.name)) in stored:
                        met[shown] += 1
                        if numbered_name(shown, met[shown]) in names:
                            name = numbered_name(entry.name, met[shown])
                            named.append(entry._replace(name=name))
                batch = MemberBatch(path)
                wanted = [entry for entry in named if _is_wanted(entry, batch, self.config.limits)]
                fetched, _ = _fetch(file, wanted, batch, 0)
                for entry, packed in fetched:
                    data = _unpack(entry, packed, batch, self.config.limits.max_bytes)
                    if data is not None:
                        batch.add(entry.name, data, None, None)
                yield batch
        finally:
            file.close()

    def _entries(self, unit: WorkUnit, file: RangedFile) -> Iterator[Entry]:
        """Parses the part of the central directory that a unit stands for."""
        size = unit.stop - unit.start
        # An archive that was cut in the meantime ends in zeros, which are no entry.
        listed = file.read(unit.start, size).ljust(size, b"\0")
        shift = unit.extra.decode()
        return parse_entries(
            unit.source,
            listed,
            int(shift.removesuffix(_WRAPS)),
            wraps=shift.endswith(_WRAPS),
            encoding=self.config.names_encoding,
        )


def _number(entries: list[Entry], unique: UniqueNames) -> dict[str, str]:
    """Numbers members that repeat a name, before rejects and images come apart.

    Returns:
        The names that were repeated, by the new ones.
    """
    given = [entry.name for entry in entries]
    repeated = {}
    for place, (name, old) in enumerate(zip(unique.numbered(given), given, strict=True)):
        if name != old and not ignored_reason(old) and not is_side_file(old):
            entries[place] = entries[place]._replace(name=name)
            repeated[name] = old
    return repeated


def _is_wanted(entry: Entry, batch: MemberBatch, limits: LimitsConfig) -> bool:
    """Returns whether to read an entry; decides from the directory alone and records rejects."""
    name = entry.name
    if reason := ignored_reason(name):
        batch.ignore(name, reason)
        return False
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFDIR:
        batch.ignore(name, "folder")
    elif is_side_file(name):
        batch.ignore(name, "side_file")
    elif kind == stat.S_IFLNK:
        batch.refuse(name, "link", "a symbolic link")
    elif kind not in (0, stat.S_IFREG):
        batch.refuse(name, "device", f"mode {entry.mode:o}")
    elif entry.encrypted:
        batch.refuse(name, "encrypted", "password-protected")
    elif entry.method not in (_STORED, _DEFLATED):
        method = _OTHER_METHODS.get(entry.method, f"method {entry.method}")
        batch.refuse(name, "unreadable", f"compressed with {method}; make the zip with Deflate")
    elif entry.unpacked > limits.max_bytes or entry.packed > limits.max_bytes:
        size = max(entry.unpacked, entry.packed)
        batch.refuse(name, "too_large", f"{size} bytes; limits.max_bytes is {limits.max_bytes}")
    elif entry.unpacked > RATIO_FLOOR and entry.unpacked > limits.max_ratio * entry.packed:
        batch.refuse(
            name,
            "too_compressed",
            f"{entry.packed} bytes unpack to {entry.unpacked};"
            f" limits.max_ratio is {limits.max_ratio:g}",
        )
    else:
        return True
    return False


def _fetch(
    file: RangedFile, entries: list[Entry], batch: MemberBatch, previous_stop: int
) -> tuple[list[tuple[Entry, bytes]], int]:
    """Reads the compressed bytes of members, adjacent members with one read.

    Args:
        file: The archive.
        entries: The members to read.
        batch: Receives the rejects.
        previous_stop: End offset of the previous batch's last member.

    Returns:
        Members with their compressed bytes, in the order of `entries`, and the end offset of the
        last one.
    """
    order = sorted(range(len(entries)), key=lambda i: entries[i].offset)
    found: dict[int, bytes] = {}
    window, start = b"", 0
    stop = previous_stop if not order or entries[order[0]].offset >= previous_stop else 0
    for rank, i in enumerate(order):
        entry = entries[i]
        if entry.offset < stop:
            batch.refuse(entry.name, "overlap", f"shares bytes before {stop} with another member")
            continue
        least = _LOCAL_BYTES + entry.packed
        at = entry.offset - start
        if at < 0 or at + least + _SLACK > len(window):
            start = entry.offset
            window, at = file.read(start, _span(entries, order, rank)), 0
        header = window[at : at + _LOCAL_BYTES]
        if len(header) < _LOCAL_BYTES or not header.startswith(LOCAL_SIGNATURE):
            batch.refuse(entry.name, "unreadable", f"no local header at byte {entry.offset}")
            continue
        begin = at + _LOCAL_BYTES + sum(_LOCAL_LENGTHS.unpack_from(header, 26))
        stop = start + begin + entry.packed
        packed = window[begin : begin + entry.packed]
        if len(packed) < entry.packed:
            packed = file.read(start + begin, entry.packed)
        if len(packed) < entry.packed:
            batch.refuse(entry.name, "unreadable", "the archive ends inside it")
            continue
        found[i] = packed
    return [(entries[i], found[i]) for i in sorted(found)], stop


def _span(entries: list[Entry], order: list[int], rank: int) -> int:
    """Returns how many bytes to read from a member's start to cover its neighbours as well."""
    start = entries[order[rank]].offset
    stop = start
    for i in order[rank:]:
        entry = entries[i]
        end = (
            entry.offset + _LOCAL_BYTES + len(entry.name.encode("utf-8", "replace")) + entry.packed
        )
        if entry.offset > stop + _GAP or (end - start > _READ and stop > start):
            break
        stop = max(stop, end)
    return stop - start + _SLACK


def _unpack(entry: Entry, packed: bytes, batch: MemberBatch, limit: int) -> bytes | None:
    """Decompresses one member and verifies its checksum."""
    data = packed
    if entry.method == _DEFLATED:
        inflater = zlib.decompressobj(-15)
        try:
            data = inflater.decompress(packed, entry.unpacked + 1)
        except zlib.error as error:
            batch.refuse(entry.name, "unreadable", str(error))
            return None
    if len(data) != entry.unpacked:
        batch.refuse(
            entry.name, "unreadable", f"unpacks to another size than the {entry.unpacked} it claims"
        )
        return None
    if zlib.crc32(data) != entry.crc:
        batch.refuse(entry.name, "checksum", f"CRC-32 is not {entry.crc:08x}")
        return None
    return data
