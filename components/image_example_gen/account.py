"""The account of an ingest: images in = examples + duplicates dropped + rejects.

Parts are added up inside Beam, the sum is checked, stored with the artifact and printed.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from components.image_sources.config import InputConfig
from components.image_sources.errors import InputError
from trainer import features

CONFLICTS_NAMED: Final = 20
"""How many contents with two labels are named in the account; the table has them all."""

SIZES_NAMED: Final = 50
"""How many sizes of images are named in the account, the commonest; `formats` has the whole."""

_SEPARATOR: Final = "\0"


@dataclass
class Account:
    """What went in and what came out.

    Attributes:
        examples: Images by split and class; class "" where there is no label.
        duplicates: Dropped copies by split and class.
        copies_kept: Copies that stayed, by configuration.
        rejected: Rejects by reason.
        ignored: Entries that are no members.
        converted: Images that are stored as PNG because the served graph cannot decode them.
        bytes: Size of all images that became examples.
        formats: Usable images by format, as they were found; copies count.
        sizes: Usable images by `WIDTHxHEIGHT`, upright; copies count.
        conflicts: Contents under two labels.
        conflict_names: The first of them: digest, name and label of each copy.
        named_splits: Splits that the sources name.
        seconds: Time from the first unit to the last file.
    """

    examples: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    copies_kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    ignored: int = 0
    converted: int = 0
    bytes: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0
    conflict_names: list[tuple[str, str, str]] = field(default_factory=list)
    named_splits: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def images_in(self) -> int:
        """All members that were met."""
        return self.examples.total() + self.duplicates.total() + self.rejected.total()

    def by_split(self) -> dict[str, dict[str, int]]:
        """Gives examples by split and class, splits in their usual order."""
        table: dict[str, dict[str, int]] = {split: {} for split in features.SPLITS}
        for name, number in sorted(self.examples.items()):
            split, _, label = name.partition(_SEPARATOR)
            if number:
                table[split][label] = number
        return table

    def class_totals(self) -> Counter[str]:
        """Gives labelled examples by class."""
        totals: Counter[str] = Counter()
        for classes in self.by_split().values():
            for label, number in classes.items():
                if label:
                    totals[label] += number
        return totals

    def to_json(self) -> dict[str, Any]:
        """Gives what is stored as `account.json`."""
        dropped: dict[str, dict[str, int]] = {}
        for name, number in sorted(self.duplicates.items()):
            split, _, label = name.partition(_SEPARATOR)
            dropped.setdefault(split, {})[label] = number
        splits = self.by_split()
        return {
            "images_in": self.images_in,
            "examples": self.examples.total(),
            "duplicates_dropped": self.duplicates.total(),
            "rejected": self.rejected.total(),
            "duplicates_kept": self.copies_kept,
            "ignored_entries": self.ignored,
            "converted_to_png": self.converted,
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
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_in / self.seconds) if self.seconds else 0,
        }

    def summary(self) -> str:
        """Words the account in one line."""
        splits = ", ".join(
            f"{split} {sum(classes.values()):,}"
            for split, classes in self.by_split().items()
            if classes
        )
        rate = f"; {self.images_in / self.seconds:,.0f} images/s" if self.seconds else ""
        return (
            f"{self.images_in:,} images in = {self.examples.total():,} examples ({splits})"
            f" + {self.duplicates.total():,} duplicates dropped"
            f" + {self.rejected.total():,} rejected{rate}"
        )


def name_of(split: str, label: str | None) -> str:
    """Gives the counters' key of a split and a class."""
    return f"{split}{_SEPARATOR}{label or ''}"


def add_up(accounts: Iterable[Account]) -> Account:
    """Adds parts; the order in which they come does not matter."""
    total = Account()
    for part in accounts:
        total.examples.update(part.examples)
        total.duplicates.update(part.duplicates)
        total.rejected.update(part.rejected)
        total.copies_kept += part.copies_kept
        total.ignored += part.ignored
        total.converted += part.converted
        total.bytes += part.bytes
        total.formats.update(part.formats)
        total.sizes.update(part.sizes)
        total.conflicts += part.conflicts
        total.conflict_names = sorted(total.conflict_names + part.conflict_names)[
            : 2 * CONFLICTS_NAMED
        ]
        total.named_splits = sorted({*total.named_splits, *part.named_splits})
    return total


def dumps(account: Account) -> bytes:
    """Serialises an account between processes."""
    return json.dumps(vars(account)).encode("utf-8")


def loads(content: bytes) -> Account:
    """Undoes `dumps`."""
    values = json.loads(content)
    for name in ("examples", "duplicates", "rejected", "formats", "sizes"):
        values[name] = Counter(values[name])
    values["conflict_names"] = [tuple(row) for row in values["conflict_names"]]
    return Account(**values)


def check_account(account: Account, config: InputConfig, rejects_path: str) -> None:
    """Refuses an ingest that training could not use.

    Args:
        account: The sum.
        config: The input section.
        rejects_path: Where the rejects table is, for messages.

    Raises:
        InputError: if nothing is usable, too much was rejected, or a class has too few images.
    """
    where = ", ".join(config.paths)
    if not account.images_in:
        raise InputError(f"{where}: no images; the archive or folder is empty")
    reasons = ", ".join(f"{reason} {number}" for reason, number in account.rejected.most_common(5))
    rejected = account.rejected.total()
    if not account.examples.total():
        raise InputError(
            f"{where}: no usable image among {account.images_in} members ({reasons or 'none'});"
            f" see {rejects_path}"
        )
    share = rejected / account.images_in
    if share > config.max_rejected_share:
        raise InputError(
            f"{where}: {rejected} of {account.images_in} members rejected ({share:.1%}, the limit"
            f" max_rejected_share is {config.max_rejected_share:.1%}): {reasons}; see"
            f" {rejects_path}"
        )
    _check_classes(account, config, where)


def _check_classes(account: Account, config: InputConfig, where: str) -> None:
    """Refuses classes that cannot be both learnt and tested."""
    totals = account.class_totals()
    few = {label: n for label, n in sorted(totals.items()) if n < config.labels.min_images}
    if few:
        named = ", ".join(f"'{label}' ({n})" for label, n in list(few.items())[:5])
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        raise InputError(
            f"{where}: classes with fewer than {config.labels.min_images} images: {named}{more};"
            " add images, remove the class, or lower labels.min_images"
        )
    train = account.by_split()[features.TRAIN]
    unlearnt = sorted(set(totals) - set(train))
    if totals and unlearnt:
        named = ", ".join(f"'{label}'" for label in unlearnt[:5])
        raise InputError(
            f"{where}: no image in the train split for class {named}; add images of it, or"
            " change splits.seed"
        )
