"""Tells for one batch what was taken for a label or a split, and why.

`sources.py` adds it to every batch; the table after ingest and `vaeline inspect` show the sums.
"""

from collections import Counter
from typing import Final

from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.named_counts import NamedCounts
from components.image_sources.naming import PathNaming, looks_like_split
from components.image_sources.paired_folders import count_paired
from trainer.data import features

SPLIT: Final = "split "
"""Prefix of the kinds that count images by the split that a name gives them."""
LABEL: Final = "label"
NAMELESS: Final = "nameless"
"""Images without a label, because their folder is called as those that hold images of any class."""
UNUSED: Final = "unused"
"""Images under names that hold the word of a split and were not taken for one."""
OUTSIDE: Final = "outside"
"""Images in folders that name no split, which matters where others do."""
BARE: Final = "bare "
"""Prefix of the kinds that count images without a label by the split's folder they are in."""
CLASSED: Final = "classed "
"""The same for images with a label."""
REPEATED: Final = "repeated"
"""Images with the name of an earlier one of their archive, see `repeated_names.py`."""
SEVERAL: Final = "several"
"""Samples of WebDataset shards in which several images have the one label."""
UNREAD: Final = "unread"
"""Images without a label beside columns, features or keys of which one may hold it."""
MISSED: Final = "missed"
"""Samples of WebDataset shards with images, none of which has the suffix of `webdataset.image`."""
SIDE_FILE_LABEL: Final = "the file beside the image"
"""The example of `LABEL` where labels are those of side files."""

_BY_PATTERN: Final = "the part of the name that labels.pattern finds"

PATH_FORMATS: Final = frozenset(("folder", "zip", "tar"))
"""Formats in which folders name the classes."""


def note_unread(batch: MemberBatch, columns: str) -> None:
    """Counts a batch's images without a label as `UNREAD`, except those that are to have none.

    Args:
        batch: The batch; its origins get the count.
        columns: What may hold the labels, and how to name it; empty if there is nothing.
    """
    if columns:
        labels = zip(batch.labels, batch.splits, strict=True)
        count = sum(label is None and split != features.UNLABELLED for label, split in labels)
        if count:
            batch.origins.add(UNREAD, columns, count)


class Origins:
    """Tells for batches what was taken for a label or a split, and why.

    Args:
        config: The input section.
    """

    def __init__(self, config: InputConfig) -> None:
        self.config = config

    def of(self, batch: MemberBatch, unit: WorkUnit) -> NamedCounts:
        """Counts a batch's images by the names that gave them label and split.

        Args:
            batch: A batch of the unit.
            unit: The unit that was read.

        Returns:
            Counts by kind: `SPLIT` and a split, `LABEL`, `UNUSED`, `BARE` or `CLASSED` and a
            folder; readers add `SEVERAL`, `UNREAD` and `MISSED`. The examples are what a user would
            recognise: the folder, archive or column.
        """
        found = NamedCounts()
        archive = unit.source.rstrip("/").rpartition("/")[2]
        if unit.format in PATH_FORMATS:
            self._add_folders(found, batch, unit)
        else:
            labelled = sum(label is not None for label in batch.labels)
            if labelled:
                found.add(LABEL, self._label_source(unit), labelled)
            for split, count in Counter(batch.splits).items():
                if split and split != unit.split:
                    found.add(SPLIT + split, self._split_source(unit.format), count)
        if unit.split and (count := batch.splits.count(unit.split)):
            found.add(SPLIT + unit.split, f"'{archive}'", count)
        unused = (
            self.config.splits.source == "auto"
            and not any(batch.splits)
            and looks_like_split(archive)
        )
        if unused and batch.data:
            found.add(UNUSED, f"'{archive}'", len(batch))
        return found

    def _add_folders(self, found: NamedCounts, batch: MemberBatch, unit: WorkUnit) -> None:
        naming = PathNaming(self.config, unit.split)
        by_pattern = bool(self.config.labels.pattern)
        labelled = self._add_matches(found, batch) if by_pattern else set()
        folders = Counter([name.rpartition("/")[0] for name in batch.names])
        count_paired(found, folders, batch.names)
        for folder, count in folders.items():
            place = naming.place(f"{folder}/")
            if by_pattern:
                place = place._replace(label=folder if folder in labelled else None)
            elif place.label:
                above = f"the folder above '{place.container}'" if place.container else ""
                found.add(LABEL, above or "the folder of the image", count)
            elif place.container:
                found.add(NAMELESS, f"'{place.container}/'", count)
            if place.unused:
                found.add(UNUSED, f"'{place.unused}/'", count)
            if place.outside:
                found.add(OUTSIDE, f"'{place.outside}/'", count)
            if place.split_folder and place.split:
                found.add(SPLIT + place.split, f"'{place.split_folder}/'", count)
                if place.split != features.UNLABELLED:
                    kind = CLASSED if place.label else BARE
                    found.add(kind + place.split_folder, folder, count)

    def _add_matches(self, found: NamedCounts, batch: MemberBatch) -> set[str]:
        """Counts the labels that `labels.pattern` found; returns the folders with such."""
        names = zip(batch.names, batch.labels, strict=True)
        folders = [name.rpartition("/")[0] for name, label in names if label is not None]
        if folders:
            found.add(LABEL, _BY_PATTERN, len(folders))
        if self.config.labels.source == "auto":
            note_unread(batch, "labels.pattern finds none in their names")
        return set(folders)

    def _label_source(self, unit: WorkUnit) -> str:
        column = unit.extra.decode() if unit.format == "parquet" else ""
        record = self.config.tfrecord
        by_name = _BY_PATTERN if self.config.labels.pattern else "the folder of the image"
        return {
            "manifest": f"the column '{self.config.manifest.label}'",
            "parquet": f"the column '{column}'" if column else by_name,
            "webdataset": SIDE_FILE_LABEL,
            "idx": "the label file",
            "tfrecord": f"the feature '{record.label_text}' or '{record.label}'",
            "tfds": f"the feature '{self.config.tfds.label}'",
        }[unit.format]

    def _split_source(self, image_format: str) -> str:
        column = self.config.parquet.split
        return {
            "manifest": f"the column '{self.config.manifest.split}'",
            "parquet": f"the column '{column}'" if column else "the folder of the image",
            "tfds": "the data set",
        }.get(image_format, "the source")
