"""Tells by its name which entry of a source is no image, and counts such entries by reason.

Every reader uses it; ingest's account and the manifest of a bulk job carry the counts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Self

from components.image_sources.naming import escaped, printable

EXAMPLES: Final = 3
"""Number of names kept per reason."""

REASONS: Final = {
    "folder": "entries of archives that are folders",
    "hidden": "names with a part that starts with a dot",
    "system": "what operating systems, network drives and editors leave behind",
    "marker": "markers of Hadoop and Spark jobs",
    "side_file": "labels, captions and other files beside images",
}
"""Reasons to ignore an entry, with their meanings."""

_SYSTEM_FOLDERS: Final = frozenset(
    (
        "__macosx",
        "__pycache__",
        "@eadir",  # Synology
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "@__thumb",
        "~snapshot",  # NetApp
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "network trash folder",
        "temporary items",
    )
)
_SYSTEM_FILES: Final = frozenset(
    (
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "icon\r",
        "picasa.ini",
        "zbthumbnail.info",
    )
)
_SYSTEM_ENDS: Final = (
    ":zone.identifier",
    "\uf03azone.identifier",
    "@synoeastream",
    "@synoresource",
)
_MARKER_FOLDERS: Final = frozenset(("_temporary", "_delta_log", "_spark_metadata"))
_MARKER_FILES: Final = frozenset(("_success", "_metadata", "_common_metadata"))
_MARKER_STARTS: Final = ("_committed_", "_started_")
_MARKER_END: Final = "_$folder$"


@dataclass
class Ignored:
    """Counts ignored entries by reason, with the first names of each.

    Attributes:
        counts: Number of entries by reason, a key of `REASONS`.
        examples: At most `EXAMPLES` names by reason, sorted.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Counts one entry."""
        self.counts[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < EXAMPLES:
            named.append(printable(name))

    def update(self, other: "Ignored") -> None:
        """Adds the counts of another part; the result does not depend on the parts' order."""
        self.counts.update(other.counts)
        for reason, names in other.examples.items():
            known = self.examples.get(reason, [])
            self.examples[reason] = sorted({*known, *names})[:EXAMPLES]

    def total(self) -> int:
        """Returns the number of ignored entries."""
        return self.counts.total()

    def summary(self) -> str:
        """Describes the entries in one line, for example `2 hidden (a/.b, c/.d)`."""
        return ", ".join(
            f"{number:,} {reason} ({', '.join(map(escaped, self.examples.get(reason, [])))})"
            for reason, number in self.counts.most_common()
        )

    def to_json(self) -> dict[str, Any]:
        """Returns count and examples by reason, the most frequent reason first."""
        return {
            reason: {"count": number, "examples": self.examples.get(reason, [])}
            for reason, number in self.counts.most_common()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Returns the counts that `to_json` described."""
        return cls(
            Counter({reason: entry["count"] for reason, entry in values.items()}),
            {reason: list(entry["examples"]) for reason, entry in values.items()},
        )


def ignored_reason(name: str) -> str | None:
    """Returns why an entry is ignored, judging by its path below the root; None if it is not.

    Args:
        name: The path inside the source, `/`-separated; a folder's ends in `/`.
    """
    folder, _, base = name.rpartition("/")
    return _reason_of_folder(folder) or (_reason_of_file(base) if base else "folder")


@lru_cache(maxsize=65536)
def _reason_of_folder(folder: str) -> str | None:
    for part in folder.split("/"):
        if part in ("", ".", ".."):
            continue
        if part.lower() in _SYSTEM_FOLDERS:
            return "system"
        if part.startswith("."):
            return "hidden"
        if part.lower() in _MARKER_FOLDERS:
            return "marker"
    return None


def _reason_of_file(base: str) -> str | None:
    name = base.lower()
    if name in _SYSTEM_FILES or name.startswith("~$") or name.endswith(_SYSTEM_ENDS):
        return "system"
    if name.startswith("."):
        return "hidden"
    if name in _MARKER_FILES or name.endswith(_MARKER_END) or name.startswith(_MARKER_STARTS):
        return "marker"
    return None
