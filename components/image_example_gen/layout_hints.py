"""Recognises layouts from which labels cannot be read as they stand, and says what to do.

`input_overview.py` warns by them right after ingest, and `account_checks.py` names them in errors.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from components.image_example_gen.account import Account
from components.image_sources.config import InputConfig
from components.image_sources.named_counts import NamedCounts
from components.image_sources.naming import escaped, sample_key
from components.image_sources.origins import (
    BARE,
    CLASSED,
    LABEL,
    MISSED,
    SEVERAL,
    SIDE_FILE_LABEL,
    UNREAD,
)
from components.image_sources.paired_folders import IMAGES_IN, MASKS_IN
from trainer.name_lists import named

_NAMED: Final = 3
_DIGITS: Final = 7
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
        shown = ", ".join(f"'{escaped(name)}'" for name in self.classes[:_NAMED])
        return (
            f"if the folders above them ({shown}) are the classes, set labels.level: {self.level}"
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
    if account.origins.counts[UNREAD]:
        return
    reads_them = SIDE_FILE_LABEL in account.origins.examples.get(LABEL, ())
    if not found or count < _SIDE_SHARE * found or reads_them or config.labels.source != "auto":
        return
    if len(labelled) > 1 and 2 * labelled.total() > found:
        return
    shown = ", ".join(map(escaped, account.ignored.examples["side_file"]))
    yield (
        f"{count:,} files beside {found:,} images ({shown}) were not read: if they hold the labels,"
        f" {manifest_advice(config)}, or, if each .cls, .txt or .json file holds the class of the"
        " image of its name, pack images and files as a tar (WebDataset)"
    )


def several_notes(origins: NamedCounts) -> Iterator[str]:
    """Yields a line if samples of WebDataset shards have several images under one label.

    Args:
        origins: What the readers counted in the whole input.
    """
    if count := origins.counts[SEVERAL]:
        pair = origins.examples[SEVERAL][0]
        # The suffix of a mask is usually that of its image with a word before it.
        suffix = min((sample_key(name)[1] for name in pair[1:-1].split("' and '")), key=len)
        yield (
            f"{count:,} sample{'s hold' if count != 1 else ' holds'} several images, such as"
            f" {escaped(pair)}, which all count as images of the class: if"
            " some are masks or the like, name the suffix of the images, such as"
            f" webdataset.image: {escaped(suffix)}"
        )


def missed_notes(origins: NamedCounts, config: InputConfig) -> Iterator[str]:
    """Yields a line if samples of WebDataset shards have no image of the configured suffix.

    Args:
        origins: What the readers counted in the whole input.
        config: The input section.
    """
    if count := origins.counts[MISSED]:
        yield (
            f"{count:,} sample{'s were' if count != 1 else ' was'} left out, such as"
            f" {escaped(origins.examples[MISSED][0])}: none of its files has the suffix of"
            f" webdataset.image, {config.webdataset.image}"
        )


def unread_notes(origins: NamedCounts) -> Iterator[str]:
    """Yields a line if images have no label but columns, features or keys that may hold it.

    Args:
        origins: What the readers counted in the whole input.
    """
    if count := origins.counts[UNREAD]:
        images = "1 image has" if count == 1 else f"{count:,} images have"
        yield f"{images} no label: {escaped(origins.examples[UNREAD][0])}"


def mixed_notes(account: Account, config: InputConfig) -> Iterator[str]:
    """Yields a line if some classes are called by numbers and others by names.

    Such are files of records of which some have the class's number only. Folders are left out: they
    have no number that stands for a name.

    Args:
        account: The account, complete or of a sample.
        config: The input section.
    """
    totals, sources = account.class_totals(), account.origins.examples.get(LABEL, ())
    if config.labels.names or any(source.startswith("the folder") for source in sources):
        return
    numbers = sorted(filter(_is_number, totals), key=int)
    names = sorted(label for label in totals if len(label) > 1 and not _is_number(label))
    # Positions in a list of the names, and no numbers that are names, such as speed limits, or as
    # digits beside a class of the rest.
    if not numbers or not names or int(numbers[-1]) > len(names):
        return
    yield (
        f"{len(numbers):,} of {len(totals):,} classes are called by a number"
        f" ({named((repr(each) for each in numbers), most=_NAMED)}), others by a name"
        f" ({named((repr(escaped(each)) for each in names), most=_NAMED)}): if a number stands for"
        " a name, list the names in the order of their numbers, from 0, as labels.names"
    )


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit() and len(label) < _DIGITS


def manifest_advice(config: InputConfig) -> str:
    """Returns how to give labels by a table, for the middle of a sentence."""
    columns = config.manifest
    return (
        f"list the image files in a CSV file with the columns {columns.path} and"
        f" {columns.label or 'label'}, and name that file as the input"
    )
