"""What sources hand on: batches of members as columns, and the rows of the rejects table.

Read by ingest and by the bulk job; nothing here looks into an image.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Reject(NamedTuple):
    """A member that is not a usable image; a row of the rejects table.

    Attributes:
        source: The archive, folder or file that held it, as configured.
        member: Its name there; empty where the whole source is meant.
        stage: `read` (found by a source), `check` (by its header) or `decode` (by its pixels).
        reason: One of `components.image_checks.reject_reasons.REASONS`.
        detail: What was found, for a person.
    """

    source: str
    member: str
    stage: str
    reason: str
    detail: str


@dataclass
class MemberBatch:
    """Members of one source, as columns of equal length.

    Attributes:
        source: The archive, folder or file that holds them.
        names: Member names inside the source, `/`-separated; data, never a path to write to.
        data: The image files, bytes as stored (after the archive's own compression).
        labels: Class names; None where unknown.
        splits: Splits that the source names; None where it names none.
        identity: What to hash instead of `data`, for sources that hold pixels and not files: the
            PNG made of them may differ between zlib versions, their division must not.
        rejects: Members met on the way that cannot be read; they are in no column.
        ignored: Entries that are no members: folders, `.DS_Store`, `__MACOSX/`, side files.
        names_are_paths: Whether names are whole paths, as in a manifest.
    """

    source: str
    names: list[str] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    identity: list[bytes] | None = None
    rejects: list[Reject] = field(default_factory=list)
    ignored: int = 0
    names_are_paths: bool = False

    def __len__(self) -> int:
        return len(self.data)

    @property
    def keys(self) -> list[str]:
        """`source/name` of each member: `archive.zip/class/1.png`."""
        if self.names_are_paths:
            return self.names
        return [f"{self.source}/{name}" for name in self.names]

    def add(self, name: str, data: bytes, label: str | None, split: str | None) -> None:
        """Appends one member."""
        self.names.append(name)
        self.data.append(data)
        self.labels.append(label)
        self.splits.append(split)

    def refuse(self, member: str, reason: str, detail: str) -> None:
        """Appends a member that cannot be read to the rejects."""
        self.rejects.append(Reject(self.source, member, "read", reason, detail))

    @property
    def size(self) -> int:
        """Bytes of the members."""
        return sum(map(len, self.data))
