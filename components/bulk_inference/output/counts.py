"""Defines the counts of a bulk job, which add up from batches to units and the whole job."""

from dataclasses import asdict, dataclass, fields
from typing import Final


@dataclass(kw_only=True)
class Counts:
    """Counts the entries of archives and what became of them.

    Attributes:
        members: Entries read: rows + rejects + duplicates + ignored.
        rows: Rows written.
        rejects: Members rejected.
        duplicates: Exact copies skipped.
        ignored: Entries that are no images by their names.
    """

    members: int = 0
    rows: int = 0
    rejects: int = 0
    duplicates: int = 0
    ignored: int = 0

    @property
    def counts(self) -> "Counts":
        """Returns the counts alone, without what a subclass adds."""
        return Counts(**{name: getattr(self, name) for name in COUNT_NAMES})

    @property
    def accounted(self) -> int:
        """Returns the sum of what became of the members."""
        return self.rows + self.rejects + self.duplicates + self.ignored

    def add_counts(self, other: "Counts") -> None:
        """Adds the counts of another part."""
        for name in COUNT_NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_counts(self) -> dict[str, int]:
        """Returns the counts by name."""
        return asdict(self.counts)


COUNT_NAMES: Final = tuple(field.name for field in fields(Counts))
"""The names of the counts, also those of Beam's counters."""
