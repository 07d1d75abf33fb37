"""Keeps the account of an ingest: members = examples + duplicates dropped + rejects + ignored.

The accounts of all parts are added inside Beam; the sum is checked, stored with the artifact and
printed.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from components.image_sources.named_counts import NamedCounts
from components.image_sources.naming import escaped, renamed_notes
from components.image_sources.origins import LABEL, SIDE_FILE_LABEL
from trainer.data import features
from trainer.name_lists import named

if TYPE_CHECKING:
    from components.image_example_gen.inspection import Inspected

CONFLICTS_NAMED: Final = 20
"""Largest number of contents with conflicting labels named in the account; the table has all."""

SIZES_NAMED: Final = 50
"""Number of the most common image sizes named in the account; `formats` covers all images."""

NEAR_COUNTS: Final = ("groups", "images", "crossing", "moved", "dropped")
"""Counts of near-duplicates: groups; images that have near-duplicates; groups that lie in more than
one split, or would without grouping; images that were moved or dropped so that none does."""

_FAULTS_NAMED: Final = 5
_SEPARATOR: Final = "\0"
_COUNTERS: Final = (
    "examples",
    "duplicates",
    "rejected",
    "near",
    "same_pixels",
    "findings",
    "formats",
    "sizes",
)
_NAMED_COUNTS: Final = ("ignored", "origins", "faults")


@dataclass
class Account:
    """Counts the members that an ingest read and what became of them.

    Attributes:
        examples: Images by split and class; class "" if there is no label.
        duplicates: Dropped copies by split and class.
        copies_kept: Number of copies that the configuration keeps.
        rejected: Rejects by reason; faults: with names, and unsupported files by format.
        near: Counts of near-duplicates by the names of `NEAR_COUNTS`.
        same_pixels: Images of held-out splits whose pixels an image of another split has.
        findings: Images by finding; with_findings: images that have any.
        finding_bounds: Bounds by finding, see `trainer.model_card.FindingBounds`.
        ignored: Entries that are no images by their names.
        renamed: Class names that could not be kept, see `MemberBatch.renamed`.
        origins: What was taken for labels and splits, see `MemberBatch.origins`.
        corrected: Images whose label a correction changed; those taken out are rejects.
        converted: Images that are stored as PNG because the served graph cannot decode the
            original format.
        bytes: Total size of the images that became examples.
        formats: Usable images by original format, including copies.
        sizes: Usable images by upright `WIDTHxHEIGHT`, including copies.
        conflicts: Number of contents that occur under two labels.
        conflict_names: The first of these: digest, and name and label of each copy.
        named_splits: Splits that the sources name.
        empty: Paths of sources without any entry.
        seconds: Time from the first unit to the last file.
    """

    examples: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    copies_kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    faults: NamedCounts = field(default_factory=NamedCounts)
    near: Counter[str] = field(default_factory=Counter)
    same_pixels: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    with_findings: int = 0
    finding_bounds: dict[str, dict[str, float]] = field(default_factory=dict)
    ignored: NamedCounts = field(default_factory=NamedCounts)
    renamed: dict[str, str] = field(default_factory=dict)
    origins: NamedCounts = field(default_factory=NamedCounts)
    corrected: int = 0
    converted: int = 0
    reduced: int = 0
    bytes: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0
    conflict_names: list[tuple[str, str, str]] = field(default_factory=list)
    named_splits: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, images: "Inspected") -> None:
        """Adds a batch of checked images, except for their splits, which are not final yet."""
        self.ignored.update(images.ignored)
        self.renamed |= images.renamed
        self.origins.update(images.origins)
        self.corrected += images.corrected
        self.converted += images.converted
        self.reduced += images.reduced
        self.bytes += sum(map(len, images.data))
        self.formats.update(header.format for header in images.headers)
        sizes = Counter(header.upright_size[::-1] for header in images.headers)
        for (width, height), number in sizes.items():
            self.sizes[f"{width}x{height}"] += number
        self.named_splits = sorted({*self.named_splits, *images.named})
        self.rejected.update(reject.reason for reject in images.rejects)
        for _, source, member, _, reason, detail in images.rejects:
            name = member or source
            if reason == "unsupported_format":
                self.faults.add(f"{reason}, {detail}", name)
            else:
                self.faults.add(reason, f"{name}: {detail}")

    @property
    def images_in(self) -> int:
        """Returns the number of members that are not ignored."""
        dropped = self.duplicates.total() + self.near["dropped"]
        return self.examples.total() + dropped + self.rejected.total()

    def by_split(self) -> dict[str, dict[str, int]]:
        """Returns examples by split and class, with the splits in canonical order."""
        table: dict[str, dict[str, int]] = {split: {} for split in features.SPLITS}
        for name, number in sorted(self.examples.items()):
            split, _, label = name.partition(_SEPARATOR)
            if number:
                table[split][label] = number
        return table

    def class_totals(self) -> Counter[str]:
        """Returns the number of labelled examples by class."""
        totals: Counter[str] = Counter()
        for classes in self.by_split().values():
            for label, number in classes.items():
                if label:
                    totals[label] += number
        return totals

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `account.json`."""
        dropped: dict[str, dict[str, int]] = {}
        for name, number in sorted(self.duplicates.items()):
            split, _, label = name.partition(_SEPARATOR)
            dropped.setdefault(split, {})[label] = number
        splits = self.by_split()
        return {
            "members": self.images_in + self.ignored.total(),
            "images_in": self.images_in,
            "examples": self.examples.total(),
            "duplicates_dropped": self.duplicates.total(),
            "rejected": self.rejected.total(),
            "duplicates_kept": self.copies_kept,
            "near_duplicates": {name: self.near[name] for name in NEAR_COUNTS},
            "same_pixels_in_another_split": dict(self.same_pixels),
            "images_with_findings": self.with_findings,
            "findings": {name: number for name, number in self.findings.items() if number},
            "finding_bounds": self.finding_bounds,
            "ignored": self.ignored.total(),
            "ignored_by_reason": self.ignored.to_json(),
            "renamed_classes": self.renamed,
            "origins": self.origins.to_json(),
            "labels_corrected": self.corrected,
            "converted_to_png": self.converted,
            "stored_at_model_size": self.reduced,
            "bytes": self.bytes,
            "formats": dict(self.formats.most_common()),
            "sizes": dict(self.sizes.most_common(SIZES_NAMED)),
            "splits": {split: sum(classes.values()) for split, classes in splits.items()},
            "classes": sorted(self.class_totals()),
            "examples_by_split_and_class": splits,
            "duplicates_by_split_and_class": dropped,
            "rejects_by_reason": dict(self.rejected.most_common()),
            "label_conflicts": self.conflicts,
            "label_conflict_names": self.conflict_names,
            "named_splits": self.named_splits,
            "empty_sources": self.empty,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_in / self.seconds) if self.seconds else 0,
        }

    def summary(self) -> str:
        """Summarises the account in one line."""
        splits = ", ".join(
            f"{split} {sum(classes.values()):,}"
            for split, classes in self.by_split().items()
            if classes
        )
        rate = f"; {self.images_in / self.seconds:,.0f} images/s" if self.seconds else ""
        ignored = self.ignored.total()
        near = self.near["dropped"]
        members = (
            f"{self.images_in + ignored:,} members" if ignored else f"{self.images_in:,} images"
        )
        return (
            f"{members} in = {self.examples.total():,} examples ({splits})"
            f" + {self.duplicates.total():,} duplicates dropped"
            f"{f' + {near:,} near-duplicates dropped' if near else ''}"
            f" + {self.rejected.total():,} rejected"
            f"{f' + {ignored:,} ignored' if ignored else ''}{rate}"
        )

    def notes(self) -> list[str]:
        """Returns one line for each kind of entry or name that was not taken as it is."""
        # People have taken images out; the overview counts them beside the corrections.
        faults = [each for each in self.faults.counts.most_common() if each[0] != "taken_out"]
        notes = [
            f"{number:,} rejected: {kind} ({escaped('; '.join(self.faults.examples[kind]))})"
            for kind, number in faults[:_FAULTS_NAMED]
        ]
        if rest := faults[_FAULTS_NAMED:]:
            kinds = named((f"{number:,} {kind}" for kind, number in rest), most=_FAULTS_NAMED)
            notes.append(f"{sum(number for _, number in rest):,} more rejected: {kinds}")
        ignored = NamedCounts(self.ignored.counts.copy(), self.ignored.examples)
        if SIDE_FILE_LABEL in self.origins.examples.get(LABEL, ()):
            # Most of them were read for the labels.
            del ignored.counts["side_file"]
        if ignored.total():
            notes.append(f"{ignored.total():,} ignored by name: {ignored.summary()}")
        return notes + renamed_notes(self.renamed)


def name_of(split: str, label: str | None) -> str:
    """Returns the key under which a split and a class are counted."""
    return f"{split}{_SEPARATOR}{label or ''}"


def add_up(accounts: Iterable[Account]) -> Account:
    """Adds the accounts of parts; the result does not depend on their order."""
    total = Account()
    for part in accounts:
        for name in (*_COUNTERS, *_NAMED_COUNTS):
            getattr(total, name).update(getattr(part, name))
        total.copies_kept += part.copies_kept
        total.renamed |= part.renamed
        total.corrected += part.corrected
        total.converted += part.converted
        total.reduced += part.reduced
        total.bytes += part.bytes
        total.conflicts += part.conflicts
        total.conflict_names = sorted(total.conflict_names + part.conflict_names)[
            : 2 * CONFLICTS_NAMED
        ]
        total.named_splits = sorted({*total.named_splits, *part.named_splits})
    return total


def dumps(account: Account) -> bytes:
    """Serialises an account to send it between processes."""
    counts = {name: getattr(account, name).to_json() for name in _NAMED_COUNTS}
    values = vars(account) | counts
    return json.dumps(values).encode("utf-8")


def loads(content: bytes) -> Account:
    """Deserialises what `dumps` returned."""
    values = json.loads(content)
    for name in _COUNTERS:
        values[name] = Counter(values[name])
    for name in _NAMED_COUNTS:
        values[name] = NamedCounts.from_json(values[name])
    values["conflict_names"] = [tuple(row) for row in values["conflict_names"]]
    return Account(**values)
