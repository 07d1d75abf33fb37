"""Derives label, split and membership from a member's path.

The readers of folders, zips and tars use it; a path is only ever parsed as text.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from components.image_sources.config import InputConfig
from trainer.data import features

SPLIT_NAMES: Final = {
    "train": features.TRAIN,
    "training": features.TRAIN,
    "validation": features.VALIDATION,
    "valid": features.VALIDATION,
    "val": features.VALIDATION,
    "dev": features.VALIDATION,
    "calibration": features.CALIBRATION,
    "test": features.TEST,
    "testing": features.TEST,
    "t10k": features.TEST,
    "unlabelled": features.UNLABELLED,
    "unlabeled": features.UNLABELLED,
    "unsupervised": features.UNLABELLED,
}
"""Maps lower-case names of folders, files and manifest entries to splits."""

_LITTER: Final = frozenset(("Thumbs.db", "desktop.ini"))


class Place(NamedTuple):
    """Holds the label and split that a folder implies for its images."""

    label: str | None
    split: str | None


class PathNaming:
    """Derives labels and splits from member paths.

    The label is the image's parent folder. The split is the first folder that has the name of a
    split: `mnist/train/7/1.png` is in train with label 7, `test/1.png` is in test without a
    label. With `splits.source: hash` no folder denotes a split, so that a class may be called
    `train`; folders above the label are then ignored.

    Args:
        config: Where labels and splits come from.
    """

    def __init__(self, config: InputConfig) -> None:
        self._labels = config.labels.source == "auto"
        self._splits = config.splits.source == "auto"
        self._place = lru_cache(maxsize=65536)(self._place_of)

    def place(self, name: str) -> Place:
        """Returns the label and split of one member path."""
        return self._place(name.rpartition("/")[0])

    def _place_of(self, folder: str) -> Place:
        """Parses a folder's path, ignoring `.`, `..` and empty parts."""
        parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
        named = [part.lower() for part in parts if part.lower() in SPLIT_NAMES]
        split = SPLIT_NAMES[named[0]] if named and self._splits else None
        label = parts[-1] if parts else None
        if split and label and len(named) == 1 and label.lower() == named[0]:
            label = None
        if not self._labels or split == features.UNLABELLED:
            label = None
        return Place(label, split)


def is_litter(name: str) -> bool:
    """Returns whether an operating system left the file: `.DS_Store`, `__MACOSX/`, hidden files."""
    base = name.rpartition("/")[2]
    return base.startswith(".") or base in _LITTER or "__MACOSX/" in name


def split_of_file(path: str) -> str | None:
    """Returns the split in a file's name, such as `train-00000.tar`, or in its folder's name."""
    folder, _, base = path.rpartition("/")
    word = base.replace("_", "-").replace(".", "-").split("-")[0]
    for candidate in (word, folder.rpartition("/")[2]):
        split = SPLIT_NAMES.get(candidate.lower())
        if split:
            return split
    return None
