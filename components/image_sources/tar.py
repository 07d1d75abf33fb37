"""Reads tar archives, compressed or not, with labels and splits from the folders inside."""

from collections.abc import Iterator

from components.image_sources import tar_stream
from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import MIB
from components.image_sources.ignored import ignored_reason, is_side_file
from components.image_sources.naming import PathNaming, escaped, sample_key
from components.image_sources.unpacking import is_plain
from trainer.errors import InputError

BATCH_BYTES = 16 * MIB
"""Size at which a batch ends, even if it has few members."""
_REMEMBERED = 1000
"""Number of members whose names are kept, to recognise an unsorted WebDataset shard."""


class TarReader(Reader):
    """Reads a tar, compressed or not."""

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans units of consecutive members, for which it reads the headers.

        A compressed archive or one in a bucket is one unit, because it can only be read from its
        beginning.

        Raises:
            InputError: if the archive is damaged.
        """
        if not is_plain(path):
            yield WorkUnit(0, path, "tar")
            return
        keys: set[str] = set()
        start = count = 0
        limits = self.config.units
        for member in tar_stream.members(path, self.config, with_data=False):
            if count == limits.members or (count and member.start - start >= limits.max_bytes):
                yield WorkUnit(0, path, "tar", start, member.start, count)
                start, count = member.start, 0
            count += 1
            if not member.kind and not ignored_reason(member.name):
                self._refuse_late_label(path, member.name, keys)
        yield WorkUnit(0, path, "tar", start, -1, count)

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads the members of one unit."""
        naming = PathNaming(self.config, unit.split)
        keys: set[str] = set()
        batch, size = MemberBatch(unit.source), 0
        for member in tar_stream.members(
            unit.source, self.config, start=unit.start, stop=unit.stop
        ):
            reason = "folder" if member.kind == "folder" else ignored_reason(member.name)
            if reason:
                batch.ignore(member.name, reason)
            elif member.kind:
                batch.refuse(member.name, member.kind, member.detail)
            else:
                self._refuse_late_label(unit.source, member.name, keys)
                if is_side_file(member.name):
                    batch.ignore(member.name, "side_file")
                    continue
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
