"""Opens the sources that a configuration names, through one dispatch table of readers.

Ingest and the bulk job call `ImageSource(config).units()`, then `.read(unit)`.
"""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.locate import locate
from components.image_sources.naming import splits_of_sources
from components.image_sources.origins import origins_of
from trainer.errors import InputError

_READERS: Final = {
    "folder": "components.image_sources.folder",
    "zip": "components.image_sources.zip",
    "tar": "components.image_sources.tar",
    "webdataset": "components.image_sources.webdataset",
    "idx": "components.image_sources.idx",
    "tfrecord": "components.image_sources.tfrecord",
    "tfds": "components.image_sources.tfds",
    "manifest": "components.image_sources.manifest",
}
"""Module of each format, imported on first use. The names are written out, so that the digest of a
step's code covers the readers (`pipeline/imports.py`)."""


def reader(image_format: str) -> Reader:
    """Returns the reader of a format."""
    module = importlib.import_module(_READERS[image_format])
    return Reader(module.plan, module.read)


class ImageSource:
    """Reads all archives of one configuration, one after the other.

    Creating it reads nothing.

    Args:
        config: The input section.
    """

    def __init__(self, config: InputConfig) -> None:
        self._config = config

    def units(self) -> Iterator[WorkUnit]:
        """Yields the work units of all archives as they are planned.

        Raises:
            InputError: if a path does not exist, or there is no member at all.
        """
        index = 0
        located = list(locate(self._config))
        splits: list[str | None] = [None] * len(located)
        if self._config.splits.source == "auto":
            splits = splits_of_sources(located)
        for (path, image_format), split in zip(located, splits, strict=True):
            for unit in reader(image_format).plan(path, self._config):
                yield replace(unit, index=index, split=split)
                index += 1
        if not index:
            raise InputError(
                f"{', '.join(self._config.paths)}: no images; the archive or folder is empty"
            )

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads one unit in batches.

        Raises:
            InputError: if the archive as a whole is unreadable.
        """
        start = 0
        for batch in reader(unit.format).read(unit, self._config):
            batch.origins = origins_of(batch, unit, self._config)
            batch.start = start
            start += len(batch)
            yield batch
