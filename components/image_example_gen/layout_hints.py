"""Recognises layouts from which labels cannot be read as they stand, and says what to do.

`input_overview.py` warns by them right after ingest, and `account_checks.py` names them in errors.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from components.image_example_gen.account import Account
from components.image_sources.config import InputConfig
from components.image_sources.named_counts import NamedCounts
from components.image_sources.naming import escaped
from components.image_sources.origins import BARE, CLASSED, LABEL, SIDE_FILE_LABEL
from components.image_sources.paired_folders import IMAGES_IN, MASKS_IN

_NAMED: Final = 3
_PAIRED_SHARE: Final = 0.5
"""Least share of the larger of two folders that the smaller one has if they are paired."""
_SIDE_SHARE: Final = 0.5
"""Least number of side files per image that is worth a hint."""


class ClassesAbove(NamedTuple):
    """Describes folders of splits inside of folders that may be the classes.

    Attributes:
        splits: The folders of splits.
        classes: Some folders above them.
        level: The value of `labels.level` that makes these the classes.
        images: Images in the folders of splits, all without a label.
    """

    splits: list[str]
    classes: list[str]
    level: int
    images: int

    def folders(self) -> str:
        """Returns the folders of splits, quoted."""
        return ", ".join(f"'{escaped(name)}/'" for name in self.splits)

    def advice(self) -> str:
        """Returns what to set, for the end of a sentence."""
        named = ", ".join(f"'{escaped(name)}'" for name in self.classes[:_NAMED])
        return (
            f"if the folders above them ({named}) are the classes, set labels.level: {self.level}"
        )


def find_classes_above(origins: NamedCounts) -> ClassesAbove | None:
    """Finds a level of folders that consists of splits only, below several other folders.

    Args:
        origins: What was taken for labels and splits in the whole input.

    Returns:
        The layout, as of `cat/train/1.png` and `dog/train/1.png`; None for any other.
    """
    if any(kind.startswith(CLASSED) for kind in origins.counts):
        return None
    splits = sorted(kind.removeprefix(BARE) for kind in origins.counts if kind.startswith(BARE))
    parents, levels = set[str](), set[int]()
    for split in splits:
        for folder in origins.examples[BARE + split]:
            parts = folder.split("/")
            at = parts.index(split) if split in parts else 0
            if not at:
                return None
            parents.add("/".join(parts[:at]))
            levels.add(len(parts) - at + 1)
    if len(parents) < 2 or len(levels) != 1:
        return None
    return ClassesAbove(
        splits=splits,
        classes=sorted({parent.rpartition("/")[2] for parent in parents}),
        level=levels.pop(),
        images=sum(origins.counts[BARE + split] for split in splits),
    )


def paired_notes(origins: NamedCounts) -> Iterator[str]:
    """Yields a line for each folder of masks whose files are called like those of another folder.

    Args:
        origins: What `paired_folders.count_paired` counted in the whole input.
    """
    masks = sorted(kind for kind in origins.counts if kind.startswith(MASKS_IN))
    images = sorted(kind for kind in origins.counts if kind.startswith(IMAGES_IN))
    for kind in masks:
        for other in images:
            counts = sorted((origins.counts[kind], origins.counts[other]))
            same = origins.examples[kind] == origins.examples[other]
            if same and counts[0] >= _PAIRED_SHARE * counts[1]:
                folder = escaped(kind.removeprefix(MASKS_IN))
                beside = escaped(other.removeprefix(IMAGES_IN))
                yield (
                    f"the files in '{folder}/' ({origins.counts[kind]:,}) are called like those in"
                    f" '{beside}/' ({origins.counts[other]:,}): if they are masks of these images"
                    f" and not images of a class, name only '{beside}/' in input.paths, or pack"
                    f" the archive without '{folder}/'"
                )
                break


def side_file_notes(account: Account, config: InputConfig) -> Iterator[str]:
    """Yields a line if about each image has a file beside it, and hardly any has a label.

    Args:
        account: The account, complete or of a sample.
        config: The input section.
    """
    count = account.ignored.counts["side_file"]
    labelled = account.class_totals()
    found = account.examples.total()
    reads_them = SIDE_FILE_LABEL in account.origins.examples.get(LABEL, ())
    if not found or count < _SIDE_SHARE * found or reads_them or config.labels.source != "auto":
        return
    if len(labelled) > 1 and 2 * labelled.total() > found:
        return
    named = ", ".join(map(escaped, account.ignored.examples["side_file"]))
    yield (
        f"{count:,} files beside {found:,} images ({named}) were not read: if they hold the labels,"
        f" {manifest_advice(config)}, or, if each .cls, .txt or .json file holds the class of the"
        " image of its name, pack images and files as a tar (WebDataset)"
    )


def manifest_advice(config: InputConfig) -> str:
    """Returns how to give labels by a table, for the middle of a sentence."""
    columns = config.manifest
    return (
        f"list the image files in a CSV file with the columns {columns.path} and"
        f" {columns.label or 'label'}, and name that file as the input"
    )
