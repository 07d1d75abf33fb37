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
from trainer.data import features

SPLIT: Final = "split "
"""Prefix of the kinds that count images by the split that a name gives them."""
LABEL: Final = "label"
UNUSED: Final = "unused"
"""Images under names that hold the word of a split and were not taken for one."""
BARE: Final = "bare "
"""Prefix of the kinds that count images without a label by the split's folder they are in."""
CLASSED: Final = "classed "
"""The same for images with a label."""

_PATH_FORMATS: Final = frozenset(("folder", "zip", "tar"))


def origins_of(batch: MemberBatch, unit: WorkUnit, config: InputConfig) -> NamedCounts:
    """Counts a batch's images by the names that gave them label and split.

    Args:
        batch: A batch of the unit.
        unit: The unit that was read.
        config: The input section.

    Returns:
        Counts by kind: `SPLIT` and a split, `LABEL`, `UNUSED`, `BARE` or `CLASSED` and a folder.
        The examples are what a user would recognise: the folder, archive or column.
    """
    found = NamedCounts()
    archive = unit.source.rstrip("/").rpartition("/")[2]
    if unit.format in _PATH_FORMATS:
        _add_folders(found, batch, unit, config)
    else:
        labelled = sum(label is not None for label in batch.labels)
        if labelled:
            found.add(LABEL, _label_source(unit.format, config), labelled)
        for split, count in Counter(batch.splits).items():
            if split and split != unit.split:
                found.add(SPLIT + split, _split_source(unit.format, config), count)
    if unit.split and (count := batch.splits.count(unit.split)):
        found.add(SPLIT + unit.split, f"'{archive}'", count)
    unused = config.splits.source == "auto" and not any(batch.splits) and looks_like_split(archive)
    if unused and batch.data:
        found.add(UNUSED, f"'{archive}'", len(batch))
    return found


def _add_folders(
    found: NamedCounts, batch: MemberBatch, unit: WorkUnit, config: InputConfig
) -> None:
    naming = PathNaming(config, unit.split)
    for folder, count in Counter([name.rpartition("/")[0] for name in batch.names]).items():
        place = naming.place(f"{folder}/")
        if place.label:
            above = f"the folder above '{place.container}'" if place.container else ""
            found.add(LABEL, above or "the folder of the image", count)
        if place.unused:
            found.add(UNUSED, f"'{place.unused}/'", count)
        if place.split_folder and place.split:
            found.add(SPLIT + place.split, f"'{place.split_folder}/'", count)
            if place.split != features.UNLABELLED:
                kind = CLASSED if place.label else BARE
                found.add(kind + place.split_folder, folder, count)


def _label_source(image_format: str, config: InputConfig) -> str:
    return {
        "manifest": f"the column '{config.manifest.label}'",
        "webdataset": "the file beside the image",
        "idx": "the label file",
        "tfrecord": f"the feature '{config.tfrecord.label_text}' or '{config.tfrecord.label}'",
        "tfds": f"the feature '{config.tfds.label}'",
    }[image_format]


def _split_source(image_format: str, config: InputConfig) -> str:
    return {"manifest": f"the column '{config.manifest.split}'", "tfds": "the data set"}.get(
        image_format, "the source"
    )
