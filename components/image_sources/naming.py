"""Derives labels and splits from names: of members, of archives, and of values in records.

Readers call it; a path is only ever parsed as text.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from components.image_sources.config import InputConfig
from trainer.data import features

SPLIT_NAMES: Final = {
    "train": features.TRAIN,
    "training": features.TRAIN,
    "trainval": features.TRAIN,
    "trn": features.TRAIN,
    "validation": features.VALIDATION,
    "valid": features.VALIDATION,
    "val": features.VALIDATION,
    "dev": features.VALIDATION,
    "calibration": features.CALIBRATION,
    "test": features.TEST,
    "testing": features.TEST,
    "tst": features.TEST,
    "t10k": features.TEST,
    "eval": features.TEST,
    "evaluation": features.TEST,
    "holdout": features.TEST,
    "unlabelled": features.UNLABELLED,
    "unlabeled": features.UNLABELLED,
    "unsupervised": features.UNLABELLED,
    "unsup": features.UNLABELLED,
    "pred": features.UNLABELLED,
    "predict": features.UNLABELLED,
    "prediction": features.UNLABELLED,
}
"""Maps lower-case words in names of folders, files and manifest entries to splits."""

_FILLERS: Final = r"data|datasets?|sets?|splits?|images?|imgs?|pictures?|photos?|samples?|files?"
_SPLIT_WORD: Final = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?:{_FILLERS})?\d*")
"""A split's name, alone or run together with a filler or a number: `test`, `testset`, `val2017`."""
_WORD_START: Final = re.compile(rf"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?={'|'.join(SPLIT_NAMES)})")
"""Where a word begins without a separator: `VOCtest`, `cifar10test`, `dogsTrain`."""
_FILLER_WORD: Final = re.compile(rf"(?:{_FILLERS}|v|part)?\d*")
_UNLABELLED_FOLDERS: Final = frozenset(("unlabelled", "unlabeled", "unsupervised", "unsup"))
"""Lower-case names of folders whose images have no label even inside of a split's folder."""
CONTAINERS: Final = frozenset(
    ("image", "images", "img", "imgs", "jpg", "jpeg", "jpegimages", "photos", "pictures", "png")
)
"""Lower-case names of folders that hold images and name no class."""

_WITH_FOLDERS: Final = frozenset(("folder", "zip", "tar"))
"""Formats in which folders can name splits."""

_RENAMED_NAMED: Final = 5
_BREAKS: Final = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]+")


class SplitName(NamedTuple):
    """Describes a name that holds the word of a split.

    Attributes:
        split: The split.
        alone: Whether the name says nothing else, as `test_set` and `val2017` do; `bullet_train`
            may as well be a class.
    """

    split: str
    alone: bool


class Place(NamedTuple):
    """Holds the label and split that a folder implies for its images.

    Attributes:
        label: The class as the folder is called; None if there is none.
        split: The split; None if no folder names one.
        split_folder: The folder that names the split.
        container: The folder that holds the images and names no class, such as `images`; the label
            is that of the folder above, if there is one.
        unused: A folder that holds the word of a split, where none was taken for one.
        outside: The folder above the label, or the label's own, where no folder names a split.
    """

    label: str | None
    split: str | None
    split_folder: str | None = None
    container: str | None = None
    unused: str | None = None
    outside: str | None = None


class PathNaming:
    """Derives labels and splits from member paths.

    The label is the image's parent folder, or the one that `labels.level` chooses, or what
    `labels.pattern` finds in the whole path. The split is
    the first folder that is named like one: `mnist/train/7/1.png` is in train with label 7,
    `test_set/1.png` is in test without a label, `train/unlabelled/1.png` is unlabelled. A folder
    like `imagenet-test`, in which a split is one word of several, counts as a split only above
    other folders, because `bullet_train/1.png` names a class. With `splits.source: hash` no folder
    denotes a split, so that a class may be called `train`; folders above the label have no meaning.

    Args:
        config: Where labels and splits come from.
        split: The split that the source as a whole has by its own name. Its folders then name
            classes, except for folders of unlabelled images.
    """

    def __init__(self, config: InputConfig, split: str | None = None) -> None:
        self._labels = config.labels.source == "auto"
        self._level = config.labels.level
        self._pattern = re.compile(config.labels.pattern) if config.labels.pattern else None
        self._splits = config.splits.source == "auto"
        self._split = split
        self._place = lru_cache(maxsize=65536)(self._place_of)

    def place(self, name: str) -> Place:
        """Returns the label and split of one member path."""
        place = self._place(name.rpartition("/")[0])
        if self._pattern is None:
            return place
        found = self._pattern.search(name) if self._labels else None
        if place.split == features.UNLABELLED:
            found = None
        return place._replace(label=(found[1] or None) if found else None, container=None)

    def _place_of(self, folder: str) -> Place:
        """Parses a folder's path, ignoring `.`, `..` and empty parts."""
        parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
        at = self._split_part(parts) if self._splits else None
        split, split_folder = self._split, None
        if at is not None and (named := split_in(parts[at])):
            split, split_folder = named.split, parts[at]
        label_at = self._label_part(parts, at)
        label = None if label_at is None else parts[label_at]
        if not self._labels or split == features.UNLABELLED:
            label = None
        container = None
        if self._labels and split != features.UNLABELLED and parts and label_at != len(parts) - 1:
            container = parts[-1] if label or parts[-1].lower() in CONTAINERS else None
        unused = outside = None
        if self._splits and split is None and parts:
            unused = next(filter(looks_like_split, parts), None)
            outside = None if unused else parts[max(0, (label_at or 0) - 1)]
        return Place(label, split, split_folder, container, unused, outside)

    def _split_part(self, parts: list[str]) -> int | None:
        """Returns the position of the folder that names the split."""
        for at, part in enumerate(parts):
            if part.lower() in _UNLABELLED_FOLDERS:
                return at
        loose = None
        for at, part in enumerate(parts):
            named = split_in(part)
            if not named or (self._split and named.split != features.UNLABELLED):
                continue
            if named.alone:
                return at
            if loose is None and at < len(parts) - 1:
                loose = at
        return loose

    def _label_part(self, parts: list[str], split_at: int | None) -> int | None:
        """Returns the position of the folder that names the class."""
        at = len(parts) - (self._level or 1)
        if not self._level and at >= 0 and parts[at].lower() in CONTAINERS:
            at -= 1
        if at < 0 or at == split_at:
            return None
        # Kaggle's archives often repeat the folder of a split: `seg_test/seg_test/1.jpg`.
        repeated = split_at is not None and at == split_at + 1 and parts[at] == parts[split_at]
        if repeated and parts[at].lower() not in SPLIT_NAMES:
            return None
        return at


@lru_cache(maxsize=65536)
def split_in(name: str) -> SplitName | None:
    """Finds the word of a split between separators, at any place in a name.

    Args:
        name: The name of a folder, or of a file without its folder.

    Returns:
        The split; None if there is none, or two different ones, as in `train_test_split`.
    """
    words = re.split(r"[\W_]+", name.lower())
    named = [match for word in words if (match := _SPLIT_WORD.fullmatch(word))]
    found = {SPLIT_NAMES[match.group(1)] for match in named}
    if features.UNLABELLED in found:
        # `unlabeled_train`: no label is what matters.
        found = {features.UNLABELLED}
    elif features.TEST in found and any(match.group(1) == "dev" for match in named):
        # COCO's `test-dev2017` is a test set.
        found -= {features.VALIDATION}
    if len(found) != 1:
        return None
    rest = [word for word in words if not _SPLIT_WORD.fullmatch(word)]
    return SplitName(found.pop(), alone=all(map(_FILLER_WORD.fullmatch, rest)))


def looks_like_split(name: str) -> bool:
    """Returns whether a name holds the word of any split, or of several, also in `VOCtest`."""
    words = re.split(r"[\W_]+", _WORD_START.sub(" ", name).lower())
    return any(map(_SPLIT_WORD.fullmatch, words))


def split_of_value(value: str) -> str | None:
    """Returns the split that a value in a manifest or a record names."""
    named = split_in(value.strip())
    return named.split if named and named.alone else None


def split_of_file(path: str) -> str | None:
    """Returns the split in a file's name, such as `train-00000.tar`, or in its folder's name."""
    folder, _, base = path.rstrip("/").rpartition("/")
    if named := split_in(base):
        return named.split
    named = split_in(folder.rpartition("/")[2])
    return named.split if named and named.alone else None


def splits_of_sources(located: list[tuple[str, str]]) -> list[str | None]:
    """Returns the splits that the names of all sources give them.

    Shards of WebDataset, TFRecord and IDX have no folders inside, so that their names are the
    usual place for a split. Folders, zips and tars are more than that: if all of them are held
    out, such as `test.zip` as the only archive, nothing is left to train on, and their names say
    nothing about how to divide them.

    Args:
        located: Path and format of each source of one input.
    """
    found = [split_of_file(path) for path, _ in located]
    if not any(found):
        # `imagenet-test/0.tar` beside `imagenet-train/0.tar`; a single such folder may be anything.
        folders = [path.rstrip("/").split("/")[-2:-1] for path, _ in located]
        loose = [split_in(part[0]) if part else None for part in folders]
        found = [named.split if named else None for named in loose]
        if len(set(found)) == 1:
            return [None] * len(found)
    held_out = {features.VALIDATION, features.CALIBRATION, features.TEST}
    if set(found) <= held_out and {image_format for _, image_format in located} <= _WITH_FOLDERS:
        return [None] * len(found)
    return found


def sample_key(name: str) -> tuple[str, str]:
    """Splits a name into the sample's key, including the folder, and the lower-case suffix."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def find_column(names: Iterable[str], wanted: str) -> str | None:
    """Finds a column by its name, whatever its case and the spaces around it; None without one.

    A name that is exactly the wanted one takes precedence.
    """
    plain = wanted.strip().casefold()
    alike = [name for name in names if name.strip().casefold() == plain]
    return wanted if wanted in alike else next(iter(alike), None)


def printable(text: str) -> str:
    """Returns text that UTF-8 can encode, with replacement characters for bytes that were not."""
    if text.isascii():
        return text
    return _encoded(text).decode("utf-8", "replace")


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # JSON can spell half of a surrogate pair, which no bytes stand for.
        return text.encode("utf-8", "replace")


def escaped(text: str) -> str:
    """Returns text for one line of a message: control characters and stray bytes are escaped."""
    shown = printable(text)
    if shown != text:
        shown = _encoded(text).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)


@lru_cache(maxsize=65536)
def clean_label(label: str) -> str | None:
    """Returns a class name in the form in which all parts of the pipeline can hold it.

    Unicode is composed (NFC), because macOS decomposes file names and would give one class two
    names; bytes that are not UTF-8 become replacement characters; line breaks and other control
    characters become spaces, because vocabularies hold one name per line.

    Args:
        label: The name as the source has it.

    Returns:
        The name; None if nothing is left of it.
    """
    if label.isascii() and label.isprintable():
        return label or None
    composed = unicodedata.normalize("NFC", printable(label))
    return (_BREAKS.sub(" ", composed).strip() if _BREAKS.search(composed) else composed) or None


def renamed_notes(renamed: Mapping[str, str]) -> list[str]:
    """Describes class names that could not be kept, in at most one line.

    Args:
        renamed: Original names, with escapes, by what `clean_label` made of them.
    """
    if not renamed:
        return []
    named = [f"'{old}' is '{new}'" for new, old in sorted(renamed.items())]
    more = f" and {len(named) - _RENAMED_NAMED} more" if len(named) > _RENAMED_NAMED else ""
    return [
        "class names that are not UTF-8 or hold control characters were changed:"
        f" {', '.join(named[:_RENAMED_NAMED])}{more}; rename the classes to choose their names"
    ]
