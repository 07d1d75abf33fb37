"""Reads tar archives, compressed or not, with labels and splits from the folders inside."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from components.image_sources import tar_stream
from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import MIB
from components.image_sources.ignored import ignored_reason, is_side_file
from components.image_sources.naming import PathNaming, escaped, printable, sample_key
from components.image_sources.repeated_names import RepeatedNames, pack_counts
from components.image_sources.seek_points import Entrances, EntryPoint, gzip_is_indexed
from components.image_sources.tar_index import TarIndex, UnitRow
from components.image_sources.unpacking import (
    ByteStream,
    compression,
    open_entrances,
    open_unpacked,
)
from trainer.errors import InputError
from trainer.progress import PROGRESS_LOGGER
from trainer.storage import files

_LOG: Final = logging.getLogger(PROGRESS_LOGGER)

BATCH_BYTES = 16 * MIB
"""Size at which a batch ends, even if it has few members."""
_REMEMBERED = 1000
"""Number of members whose names are kept, to recognise an unsorted WebDataset shard."""


class TarReader(Reader):
    """Reads a tar, compressed or not."""

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans units of consecutive members, for which it reads the headers or their index.

        An archive in a bucket is one unit, and so is a compressed one that cannot be entered or
        has no place for an index.

        Raises:
            InputError: if the archive is damaged.
        """
        whole = WorkUnit(0, path, "tar")
        packing = "" if files.is_remote(path) else compression(path)
        if files.is_remote(path) or (packing and not self._may_enter(path, packing)):
            yield whole
        elif self.index and (known := self.index.load(path, self.config)) is not None:
            yield from known
        elif not packing:
            yield from self._walk(path)
        elif self.index and self.index.writable:
            yield from self._walk_packed(path, self.index) or (whole,)
        else:
            yield whole

    def _may_enter(self, path: str, packing: str) -> bool:
        """Returns whether an index of a compressed archive is possible and worth its pass."""
        small = files.stat(path).size < self.config.units.max_bytes // 16
        if self.index is None or small or packing not in ("gzip", "zstd"):
            return False
        if packing == "gzip" and not gzip_is_indexed():
            _LOG.info(
                "%s: one worker reads it, from its beginning; several can, and a stopped job goes"
                " on in the middle, with pip install 'vaeline[gzip]'",
                path,
            )
            return False
        return True

    def _walk(self, path: str) -> Iterator[WorkUnit]:
        rows: list[UnitRow] = []
        with open_unpacked(path, self.config) as blocks:
            for row in self._cut(path, blocks, None):
                rows.append(row)
                yield WorkUnit(0, path, "tar", *row[:3], earlier=pack_counts(row[4]))
        if self.index and self.index.writable and len(rows) > 1:
            self.index.keep(path, self.config, rows, b"")

    def _walk_packed(self, path: str, index: TarIndex) -> list[WorkUnit]:
        """Reads an archive through for its index; a damaged one fails where its unit is read."""
        try:
            with open_entrances(path, self.config) as (blocks, entrances):
                rows = list(self._cut(path, blocks, entrances))
                points = entrances.points() if len(rows) > 1 else b""
        except InputError as error:
            _LOG.info("%s; one worker reads what there is, without an index", error)
            return []
        if len(rows) == 1:
            rows = [(0, -1, -1, EntryPoint(), {})]
        return index.keep(path, self.config, rows, points)

    def _cut(self, path: str, blocks: ByteStream, entrances: Entrances | None) -> Iterator[UnitRow]:
        """Yields the units of an open archive, which begin where it can be entered."""
        keys: set[str] = set()
        repeated, names = RepeatedNames(), list[str]()
        start = count = 0
        place = EntryPoint()
        limits = self.config.units
        for member in tar_stream.headers(path, blocks, self.config):
            full = count >= limits.members or (count and member.start - start >= limits.max_bytes)
            if full and (entrances is None or entrances.has_new(start, member.start)):
                yield start, member.start, count, place, repeated.add(names)
                start, count, names = member.start, 0, []
                place = entrances.place(start) if entrances else place
            count += 1
            if member.kind == "folder" or ignored_reason(member.name):
                continue
            names.append(printable(member.name))
            if not member.kind:
                self._refuse_late_label(path, member.name, keys)
        yield start, -1, count, place, repeated.add(names)

    def version(self, unit: WorkUnit) -> bytes:
        """Returns a value that changes with the unit's members, wherever the index lies."""
        return super().version(replace(unit, extra=b""))

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads the members of one unit."""
        naming = PathNaming(self.config, unit.split)
        keys: set[str] = set()
        batch, size = MemberBatch(unit.source), 0
        for member in tar_stream.members(
            unit.source,
            self.config,
            start=unit.start,
            stop=unit.stop,
            entry=EntryPoint.of(unit.extra),
        ):
            reason = "folder" if member.kind == "folder" else ignored_reason(member.name)
            if not reason and not member.kind:
                self._refuse_late_label(unit.source, member.name, keys)
            if reason:
                batch.ignore(member.name, reason)
            elif is_side_file(member.name):
                batch.ignore(member.name, "side_file")
            elif member.kind:
                batch.refuse(member.name, member.kind, member.detail)
            else:
                place = naming.place(member.name)
                batch.add(member.name, member.data, place.label, place.split)
                size += len(member.data)
            if batch.members >= self.config.units.batch or size >= BATCH_BYTES:
                yield batch
                batch, size = MemberBatch(unit.source), 0
        yield batch

    def _refuse_late_label(self, path: str, name: str, keys: set[str]) -> None:
        """Raises for a label file of WebDataset behind its image.

        A shard is recognised by its first members; if all labels come last, it looks like a
        plain tar.
        """
        key, suffix = sample_key(name)
        if suffix == "cls" and key in keys and self.config.labels.source == "auto":
            raise InputError(
                f"{path}: {escaped(name)} is the label of an image far before it; sort the shard so"
                " that the files of a sample follow each other (tar --sort=name), or set"
                " format: webdataset and labels.source: none"
            )
        if len(keys) < _REMEMBERED:
            keys.add(key)
