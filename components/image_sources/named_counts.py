"""Counts what readers meet by kind, with a few names of each.

Batches, ingest's account and the records of a bulk job hold such counts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from components.image_sources.naming import escaped, printable

EXAMPLES: Final = 3
"""Number of names kept per kind."""


@dataclass
class NamedCounts:
    """Counts things by kind, with a few of their names; two of them can be added.

    Attributes:
        counts: Number by kind.
        examples: At most `EXAMPLES` names by kind.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Counts a thing, or several of one name."""
        self.counts[kind] += count
        named = self.examples.setdefault(kind, [])
        if len(named) < EXAMPLES and (shown := printable(name)) not in named:
            named.append(shown)

    def update(self, other: "NamedCounts") -> None:
        """Adds the counts of another part; the result does not depend on the parts' order."""
        self.counts.update(other.counts)
        for kind, names in other.examples.items():
            known = self.examples.get(kind, [])
            self.examples[kind] = sorted({*known, *names})[:EXAMPLES]

    def total(self) -> int:
        """Returns the number over all kinds."""
        return self.counts.total()

    def summary(self) -> str:
        """Describes the counts in one line, for example `2 hidden (a/.b, c/.d)`."""
        return ", ".join(
            f"{number:,} {kind} ({', '.join(map(escaped, self.examples.get(kind, [])))})"
            for kind, number in self.counts.most_common()
        )

    def to_json(self) -> dict[str, Any]:
        """Returns count and examples by kind, the most frequent kind first."""
        return {
            kind: {"count": number, "examples": self.examples.get(kind, [])}
            for kind, number in self.counts.most_common()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Returns the counts that `to_json` described."""
        return cls(
            Counter({kind: entry["count"] for kind, entry in values.items()}),
            {kind: list(entry["examples"]) for kind, entry in values.items()},
        )
