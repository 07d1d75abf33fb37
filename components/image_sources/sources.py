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
from components.image_sources.locate import Locator
from components.image_sources.naming import splits_of_sources
from components.image_sources.origins import Origins
from components.image_sources.repeated_names import UniqueNames
from components.image_sources.tar_index import TarIndex
from trainer.errors import InputError

_READERS: Final = {
    "folder": ("components.image_sources.folder", "FolderReader"),
    "zip": ("components.image_sources.zip", "ZipReader"),
    "tar": ("components.image_sources.tar", "TarReader"),
    "webdataset": ("components.image_sources.webdataset", "WebDatasetReader"),
    "idx": ("components.image_sources.idx", "IdxReader"),
    "tfrecord": ("components.image_sources.tfrecord", "TFRecordReader"),
    "tfds": ("components.image_sources.tfds", "TFDSReader"),
    "parquet": ("components.image_sources.parquet", "ParquetReader"),
    "manifest": ("components.image_sources.manifest", "ManifestReader"),
}
"""Module and class of each format, imported on first use. The names are written out, so that the
digest of a step's code covers the readers (`pipeline/imports.py`)."""

_NAMED_ALREADY: Final = frozenset(("zip", "idx", "tfrecord", "tfds", "parquet"))
"""Formats whose readers give no name twice: names begin with the number of the row, or the reader
knows all names of a unit before it reads any member."""

_MOST_INDEXED: Final = 16
"""Most sources that get an index. More of them are enough work for all workers, and to read each
compressed tar before the first image would take longer than that saves."""


def open_reader(image_format: str, config: InputConfig, index: TarIndex | None = None) -> Reader:
    """Returns the reader of a format."""
    module, name = _READERS[image_format]
    reader: Reader = getattr(importlib.import_module(module), name)(config, index)
    return reader


class ImageSource:
    """Reads all archives of one configuration, one after the other.

    Creating it reads nothing.

    Args:
        config: The input section.
        index: Where the units of tars are kept; without it a compressed tar is one unit.

    Attributes:
        empty: Paths of zips, folders and others in which `units` has found no entry.
    """

    def __init__(self, config: InputConfig, index: TarIndex | None = None) -> None:
        self.empty: list[str] = []
        self._config = config
        self._index = index

    def units(self) -> Iterator[WorkUnit]:
        """Yields the work units of all archives as they are planned.

        Raises:
            InputError: if a path does not exist, or there is no member at all.
        """
        count = 0
        self.empty = []
        located = list(Locator(self._config).sources())
        splits: list[str | None] = [None] * len(located)
        if self._config.splits.source == "auto":
            splits = splits_of_sources(located)
        index = self._index if len(located) <= _MOST_INDEXED else None
        for (path, image_format), split in zip(located, splits, strict=True):
            before = count
            for unit in open_reader(image_format, self._config, index).plan(path):
                yield replace(unit, index=count, split=split)
                count += 1
            if count == before:
                self.empty.append(path)
        if not count:
            raise InputError(
                f"{', '.join(self._config.paths)}: no images; the archive or folder is empty"
            )

    def version(self, unit: WorkUnit) -> bytes:
        """Returns a value that changes with the unit's members, without reading them."""
        return open_reader(unit.format, self._config).version(unit)

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads one unit in batches.

        Raises:
            InputError: if the archive as a whole is unreadable.
        """
        origins, names = Origins(self._config), UniqueNames(unit.earlier)
        start = 0
        for batch in open_reader(unit.format, self._config).read(unit):
            if unit.format not in _NAMED_ALREADY:
                names.apply(batch)
            batch.origins.update(origins.of(batch, unit))
            batch.start = start
            start += len(batch)
            yield batch
