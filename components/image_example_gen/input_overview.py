"""Describes what an ingest found: classes by split, where labels and splits come from, warnings.

`ingest.py` attaches it to its log record right after the images are read, before any training;
the console and `vaeline inspect` print it.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from components.image_example_gen.account import Account
from components.image_example_gen.layout_hints import (
    find_classes_above,
    missed_notes,
    mixed_notes,
    paired_notes,
    several_notes,
    side_file_notes,
    unread_notes,
)
from components.image_sources.config import InputConfig
from components.image_sources.naming import escaped
from components.image_sources.origins import (
    BARE,
    CLASSED,
    LABEL,
    NAMELESS,
    OUTSIDE,
    SPLIT,
    UNUSED,
)
from components.image_sources.repeated_names import repeated_notes
from trainer.data import features
from trainer.name_lists import named

OVERVIEW: Final = "overview"
"""Attribute of the log record that sums an ingest up: its `InputOverview`."""

_SHOWN: Final = 10
"""Number of classes shown from either end of the order by size."""
_FEW: Final = 5
"""A class with fewer images gets a warning."""
_NAMED: Final = 5
"""Number of names in one warning."""
_LIKE_MISSING: Final = frozenset(("nan", "na", "n/a", "<na>", "null", "none", "-1", "?"))
"""Classes that are rather values of a manifest's program for no label, in lower case."""
_MISREAD: Final = re.compile("[\u2500-\u259f¬⌐₧ⁿ∩≡⌠⌡∙«»¡¿]")
"""Characters that names of other encodings get when they are read as cp437, and that hardly any
class has: lines and blocks, of which Chinese and Japanese names are full, and Cyrillic letters."""


@dataclass(frozen=True)
class InputOverview:
    """Holds what a user should know of the input before the long work begins.

    Attributes:
        header: Titles of the columns: `class`, the splits that have images, `all`.
        rows: One row per class, the largest first, and the sum last; numbers as text.
        sources: One line for each kind of name that gave images their labels or splits.
        warnings: One line for each thing that is probably not meant.
    """

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    sources: list[str]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Returns all attributes as JSON-compatible types."""
        return asdict(self)


def describe_input(account: Account, config: InputConfig) -> InputOverview:
    """Describes the input of an ingest.

    Args:
        account: The account, complete or of a sample.
        config: The input section.
    """
    table = account.by_split()
    splits = [split for split in features.SPLITS if sum(table[split].values())]
    totals = account.class_totals()
    blank = sum(classes.get("", 0) for classes in table.values())
    order = [label for label, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))]

    def row(title: str, numbers: list[int]) -> tuple[str, ...]:
        return (title, *(f"{number:,}" for number in numbers), f"{sum(numbers):,}")

    rows = [
        row(escaped(label), [table[split].get(label, 0) for split in splits]) for label in order
    ]
    if len(rows) > 2 * _SHOWN:
        gap = (f"... {len(rows) - 2 * _SHOWN:,} more classes", *[""] * (len(splits) + 1))
        rows[_SHOWN:-_SHOWN] = [gap]
    if blank:
        rows.append(row("(no label)", [table[split].get("", 0) for split in splits]))
    classes = "1 class" if len(totals) == 1 else f"{len(totals):,} classes"
    rows.append(row(classes, [sum(table[split].values()) for split in splits]))
    return InputOverview(
        header=("class", *splits, "all"),
        rows=rows,
        sources=_sources(account, config),
        warnings=list(_warnings(account, config)),
    )


def _sources(account: Account, config: InputConfig) -> list[str]:
    """Returns the lines that say where labels and splits come from."""
    origins = account.origins
    lines = []
    for kind in (LABEL, *(SPLIT + split for split in features.SPLITS)):
        if count := origins.counts[kind]:
            title = "labels" if kind == LABEL else kind
            lines.append(f"{title}: from {_quoted(origins.examples[kind])}, {_images(count)}")
    shares = {
        features.VALIDATION: config.splits.validation,
        features.CALIBRATION: config.splits.calibration,
        features.TEST: config.splits.test,
    }
    hashed = {
        split: share
        for split, share in shares.items()
        if share and split not in account.named_splits
    }
    if hashed and account.class_totals():
        parts = ", ".join(f"{split} {share:.0%}" for split, share in hashed.items())
        lines.append(f"by a hash of the content: {parts} of the labelled images for training")
    if config.labels.corrections:
        lines.append(
            f"corrections: {account.corrected:,} label{'s' * (account.corrected != 1)} changed,"
            f" {_images(account.rejected['taken_out'])} taken out"
        )
    near = account.near
    if near["images"]:
        line = f"near-duplicates: {_images(near['images'])} in {near['groups']:,} groups"
        if config.duplicates.near == "group":
            line += f", {near['moved']:,} moved and {near['dropped']:,} dropped"
        lines.append(line)
    if account.with_findings:
        named = ", ".join(
            f"{name.replace('_', ' ')} {number:,}"
            for name, number in account.findings.most_common()
            if number
        )
        lines.append(f"findings: {_images(account.with_findings)}: {named}")
    return lines


def _warnings(account: Account, config: InputConfig) -> Iterable[str]:
    """Yields the warnings, the gravest first."""
    table, totals, origins = account.by_split(), account.class_totals(), account.origins
    yield from paired_notes(origins)
    yield from missed_notes(origins, config)
    yield from several_notes(origins)
    yield from mixed_notes(account, config)
    yield from unread_notes(origins)
    if len(totals) == 1:
        (only,) = totals
        yield (
            f"one class only, '{escaped(only)}': if the classes are other folders, set labels.level"
        )
    misread = [label for label in totals if _MISREAD.search(label)]
    if misread and not config.names_encoding:
        yield (
            f"{_classes(misread)} with a name that looks misread: if a zip has names in another"
            " encoding than cp437, set input.names_encoding, such as gbk, cp866 or cp1252"
        )
    if above := find_classes_above(origins):
        yield (
            f"{above.folders()} were taken for splits, and {_images(above.images)} directly in them"
            f" got no label; {above.advice()}"
        )
    for kind, count in sorted(origins.counts.items()):
        folder = kind.removeprefix(BARE)
        if kind.startswith(BARE) and not origins.counts[CLASSED + folder] and not above:
            yield (
                f"'{escaped(folder)}/' was taken for a split, but {_images(count)} directly in it"
                " got no label; if it is a class, set splits.source: hash"
            )
    if totals and (count := origins.counts[NAMELESS]):
        yield (
            f"no class is named by {_quoted(origins.examples[NAMELESS])}, so that {_images(count)}"
            " got no label; to learn it as a class, set labels.level: 1"
        )
    if count := origins.counts[UNUSED]:
        yield (
            f"like a split, but taken for none, is the name of {_quoted(origins.examples[UNUSED])}"
            f" ({_images(count)}); rename what is a split"
        )
    beside_splits = any(kind.startswith((BARE, CLASSED)) for kind in origins.counts)
    if beside_splits and (count := origins.counts[OUTSIDE]):
        yield (
            f"{_quoted(origins.examples[OUTSIDE])}: {_images(count)} outside of the folders of"
            " splits, for training and for splits without a folder; if they are held out, rename"
            " the folder, such as to `test`"
        )
    yield from repeated_notes(origins)
    yield from side_file_notes(account, config)
    if account.conflicts:
        _, name, label = account.conflict_names[0]
        yield (
            f"{_images(account.conflicts)} under two labels, such as '{escaped(name)}'"
            f" ('{escaped(label)}'): the first in source order counts; duplicates.parquet lists all"
        )
    without = [label for label in totals if not table[features.TEST].get(label)]
    if table[features.TEST] and without and len(totals) > 1:
        yield f"{_classes(without)} without test images: their quality will not be measured"
    few = [label for label, number in totals.items() if number < _FEW]
    if few:
        yield f"{_classes(few)} with fewer than {_FEW} images"
    if (crossing := account.near["crossing"]) and config.duplicates.near == "report":
        yield (
            f"{crossing:,} groups of near-duplicates lie in more than one split; set"
            " input.duplicates.near: group"
        )
    if (same := account.same_pixels) and config.duplicates.near == "off":
        # The other settings count these among the near-duplicates.
        known = ", ".join(f"{split} {number:,}" for split, number in sorted(same.items()))
        yield (
            f"also in another split, with the same pixels in a file of other content:"
            f" {_images(same.total())} ({known}); measures on them are too good; set"
            " input.duplicates.near: group"
        )
    missing = [label for label in totals if label.casefold() in _LIKE_MISSING]
    if missing and any(name.startswith("the column") for name in origins.examples.get(LABEL, ())):
        yield (
            f"{_classes(missing)} called like a missing value: if these images have no label, leave"
            " the value empty"
        )
    for names in _alike(totals):
        quoted = ", ".join(f"'{escaped(name)}'" for name in names[:_NAMED])
        yield f"classes that differ only by case, spaces or Unicode form: {quoted}"
    if count := len(account.empty):
        shown = named(map(escaped, account.empty), most=_NAMED)
        yield f"{count:,} source{'s' * (count > 1)} without any entry: {shown}"
    yield from account.notes()


def _alike(labels: Iterable[str]) -> list[list[str]]:
    """Groups class names that a human reader would take for one."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        folded = unicodedata.normalize("NFKC", label).casefold()
        sign = "-" if re.match(r"-[\d.]", folded) else ""
        groups[sign + "".join(folded.replace("_", " ").replace("-", " ").split())].append(label)
    return [names for names in groups.values() if len(names) > 1]


def _classes(labels: list[str]) -> str:
    shown = named((f"'{escaped(label)}'" for label in sorted(labels)), most=_NAMED)
    return f"{len(labels):,} class{'es' if len(labels) > 1 else ''} ({shown})"


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count != 1 else ''}"


def _quoted(names: list[str]) -> str:
    return ", ".join(map(escaped, names))
