"""Defines what sources yield: columnar batches of members, and rows of the rejects table.

Ingest and the bulk job consume both; nothing in this module parses an image.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from components.image_sources.named_counts import NamedCounts
from components.image_sources.naming import clean_label, escaped

_OF_WHOLE_BATCH: Final = ("rejects", "refused_at", "ignored", "renamed", "origins")
"""What a batch holds beside its columns."""


class Reject(NamedTuple):
    """Records a member that is not a usable image, as one row of the rejects table.

    Attributes:
        key: The key that the member would have as an image, see `MemberBatch.keys`.
        source: The archive, folder or file that holds the member, as configured.
        member: The member's name in the source; empty if the row is about the whole source.
        stage: Where it failed: `read` (in the source), `check` (header) or `decode` (pixels).
        reason: One of `components.image_checks.reject_reasons.REASONS`.
        detail: A description of the problem for a human reader.
    """

    key: str
    source: str
    member: str
    stage: str
    reason: str
    detail: str


@dataclass
class MemberBatch:
    """Holds members of one source as columns of equal length.

    Attributes:
        source: The archive, folder or file that holds the members.
        names: Member names inside the source, `/`-separated; data, never a path to write to.
        data: The bytes of the image files, after the archive's own compression is undone.
        labels: Class names, as `naming.clean_label` returns them; None if unknown.
        splits: Splits that the source names; None if it names none.
        identity: The bytes to hash instead of `data`, for sources that hold pixels rather than
            files: the encoded PNG may differ between zlib versions, but the split must not.
        rejects: Members that could not be read; they appear in no column.
        refused_at: Number of members in the columns when each of `rejects` was refused.
        ignored: Entries that are no images by their names: folders, hidden files, side files.
        renamed: Original class names, with escapes, by what `clean_label` made of them, where the
            original could not be kept.
        origins: What was taken for labels and splits, see `origins.py`; set by `sources.py`.
        names_are_paths: Whether names are full paths, as in a manifest.
        start: Position of the first member among those of its unit; set by `sources.py`.
    """

    source: str
    names: list[str] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    identity: list[bytes] | None = None
    rejects: list[Reject] = field(default_factory=list)
    refused_at: list[int] = field(default_factory=list)
    ignored: NamedCounts = field(default_factory=NamedCounts)
    renamed: dict[str, str] = field(default_factory=dict)
    origins: NamedCounts = field(default_factory=NamedCounts)
    names_are_paths: bool = False
    start: int = 0

    def __len__(self) -> int:
        return len(self.data)

    @property
    def keys(self) -> list[str]:
        """Returns `source/name` of each member, for example `archive.zip/class/1.png`."""
        return self.names if self.names_are_paths else [self.key_of(name) for name in self.names]

    def key_of(self, name: str) -> str:
        """Returns the key of one member by its name."""
        return name if self.names_are_paths and name else f"{self.source}/{name}"

    def digests(self, places: Iterable[int] | None = None) -> list[bytes]:
        """Returns the SHA-256 of the content of all members, or of some, 32 bytes each."""
        content = self.data if self.identity is None else self.identity
        chosen = content if places is None else (content[place] for place in places)
        return [hashlib.sha256(value).digest() for value in chosen]

    def add(self, name: str, data: bytes, label: str | None, split: str | None) -> None:
        """Appends one member; its label is cleaned."""
        self.names.append(name)
        self.data.append(data)
        self.labels.append(self._clean(label) if label else None)
        self.splits.append(split)

    def _clean(self, label: str) -> str | None:
        cleaned = clean_label(label)
        if cleaned != label and not label.isprintable():
            self.renamed[cleaned or ""] = escaped(label)
        return cleaned

    def refuse(self, member: str, reason: str, detail: str) -> None:
        """Appends a member that cannot be read to the rejects."""
        self.rejects.append(self.reject(member, "read", reason, detail))
        self.refused_at.append(len(self))

    def reject(self, member: str, stage: str, reason: str, detail: str) -> Reject:
        """Returns the row of the rejects table for one member."""
        return Reject(self.key_of(member), self.source, member, stage, reason, detail)

    def ignore(self, name: str, reason: str) -> None:
        """Counts an entry that is no image; `reason` is one of `ignored.REASONS`."""
        self.ignored.add(reason, name)

    @property
    def members(self) -> int:
        """Returns the number of entries read: images, rejects and ignored ones."""
        return len(self.data) + len(self.rejects) + self.ignored.total()

    @property
    def size(self) -> int:
        """Returns the total size of the members in bytes."""
        return sum(map(len, self.data))

    def slices(self, most: int, most_bytes: int) -> Iterator["MemberBatch"]:
        """Divides the batch; the first slice has all that is in no column.

        Args:
            most: Most members of a slice.
            most_bytes: Bytes at which a slice ends.
        """
        start = size = 0
        for stop, data in enumerate(self.data, 1):
            size += len(data)
            if stop - start == most or size >= most_bytes or stop == len(self):
                yield self._slice(start, stop)
                start, size = stop, 0
        if not self.data:
            yield self

    def _slice(self, start: int, stop: int) -> "MemberBatch":
        if stop - start == len(self):
            return self
        columns = replace(
            self,
            names=self.names[start:stop],
            data=self.data[start:stop],
            labels=self.labels[start:stop],
            splits=self.splits[start:stop],
            identity=None if self.identity is None else self.identity[start:stop],
            start=self.start + start,
        )
        if not start:
            return columns
        others = {name: type(getattr(self, name))() for name in _OF_WHOLE_BATCH}
        return replace(columns, **others)
