"""Gives members that share a name in an archive names of their own: `1.png`, `1.png#2`, ...

`tar -r`, `tar -u` and some zip writers leave such members. Readers count the names while they plan,
where planning reads them, and `sources.py` applies the counts to every batch.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np

from components.image_sources.batch import MemberBatch
from components.image_sources.named_counts import NamedCounts
from components.image_sources.naming import escaped, printable
from components.image_sources.origins import REPEATED

_Name = TypeVar("_Name", str, bytes)


class RepeatedNames:
    """Counts names part by part, at eight bytes a name.

    Names count as equal if their hashes of 64 bits are. Among ten million names, the probability
    that one gets a number that it does not need is three in a million.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []
        self._counts: dict[int, int] = {}

    def add(self, names: Sequence[_Name]) -> dict[_Name, int]:
        """Adds the names of a part.

        Args:
            names: The names, in any order; text as `printable` returns it, because what tables
                show has to differ.

        Returns:
            How often names of this part occurred in earlier parts; the others are absent.
        """
        hashes = np.fromiter(map(hash, names), np.int64, len(names))
        distinct, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        known = np.zeros(len(distinct), bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, distinct), len(run) - 1)
            known |= run[places] == distinct
        earlier = {}
        for at in np.flatnonzero(known | (counts > 1)).tolist():
            before = self._counts.get(int(distinct[at]), 1) if known[at] else 0
            self._counts[int(distinct[at])] = before + int(counts[at])
            if before:
                earlier[names[first[at]]] = before
        self._keep(distinct[~known])
        return earlier

    def _keep(self, run: np.ndarray) -> None:
        """Keeps sorted hashes; each run is at least twice as long as the next one."""
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        if len(run):
            self._runs.append(run)


class UniqueNames:
    """Numbers the members of a unit whose names occurred before.

    Args:
        earlier: What `pack_counts` made of the counts of earlier units.
    """

    def __init__(self, earlier: bytes) -> None:
        self._earlier: dict[str, int] = json.loads(earlier) if earlier else {}
        self._names = RepeatedNames()

    def apply(self, batch: MemberBatch) -> None:
        """Renames the images and rejects of a batch of the unit; batches come in order.

        Rows of a manifest stay as they are: two of one path are the same file.
        """
        if batch.names_are_paths:
            return
        # Negative: rejects, at their places among the images.
        order, at = list[int](), 0
        for number, place in enumerate(batch.refused_at):
            order += [*range(at, place), ~number]
            at = place
        order += range(at, len(batch))
        given = [batch.names[i] if i >= 0 else batch.rejects[~i].member for i in order]
        names = self.numbered(given)
        if names == given:
            return
        for i, name, old in zip(order, names, given, strict=True):
            if name != old and i >= 0:
                batch.names[i] = name
                batch.origins.add(REPEATED, old)
            elif name != old:
                batch.rejects[~i] = batch.rejects[~i]._replace(member=name, key=batch.key_of(name))

    def numbered(self, names: list[str]) -> list[str]:
        """Returns the names of further members of the unit, with numbers where they repeat.

        Args:
            names: Names of members, in source order; an empty one stands for the whole source.
        """
        shown = list(map(printable, names))
        before = self._names.add(shown)
        if not before and not self._earlier and len(set(shown)) == len(shown):
            return names
        count: Counter[str] = Counter(before)
        for name in set(shown):
            count[name] += self._earlier.get(name, 0)
        numbered = []
        for given, name in zip(names, shown, strict=True):
            count[name] += 1
            numbered.append(numbered_name(given, count[name]) if name else given)
        return numbered


def numbered_name(name: str, occurrence: int) -> str:
    """Returns the name of an archive's member, of which there may be several of one name.

    Args:
        name: The name in the archive.
        occurrence: 1 for the first member of this name, which keeps it.
    """
    return name if occurrence == 1 else f"{name}#{occurrence}"


def unnumbered(names: Collection[str]) -> set[str]:
    """Returns what the members of these names may be called in the archive."""
    cut = (name.rpartition("#") for name in names)
    return {*names, *(name for name, _, number in cut if number.isdigit())}


def repeated_only(origins: NamedCounts) -> NamedCounts:
    """Returns the counts of repeated names alone, without those of labels and splits."""
    found = NamedCounts()
    if count := origins.counts[REPEATED]:
        found.counts[REPEATED] = count
        found.examples[REPEATED] = list(origins.examples[REPEATED])
    return found


def repeated_notes(origins: NamedCounts) -> list[str]:
    """Describes images whose names occurred before in their archive, in at most one line."""
    count = origins.counts[REPEATED]
    if not count:
        return []
    named = ", ".join(map(escaped, origins.examples[REPEATED]))
    return [
        f"{count:,} image{'s' if count != 1 else ''} with the name of an earlier one of the same"
        f" archive ({named}), called NAME#2 and so on: all are used; if the later ones were meant"
        " to replace the earlier, as with tar -u, unpack the archive and pack it again"
    ]


def pack_counts(earlier: Mapping[str, int]) -> bytes:
    """Packs counts for a work unit; empty if there are none."""
    return json.dumps(earlier, sort_keys=True).encode() if earlier else b""
