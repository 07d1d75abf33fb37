"""Opens the sources that a configuration names: one dispatch table from format to reader.

Called by ingest and by the bulk job: `open_source(config).units()`, then `.read(unit)`.
"""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.errors import InputError
from components.image_sources.locate import locate

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
"""Module by format; a module is imported when its format is met. The names are written out, so that
the digest of a step's code covers the readers (`pipeline/imports.py`)."""


def reader(image_format: str) -> Reader:
    """Gives the reader of a format."""
    module = importlib.import_module(_READERS[image_format])
    return Reader(module.plan, module.read)


class ImageSource:
    """All archives of one configuration, one after the other.

    Args:
        config: The input section.
    """

    def __init__(self, config: InputConfig) -> None:
        self._config = config

    def units(self) -> Iterator[WorkUnit]:
        """Plans the work, streaming.

        Raises:
            InputError: if a path does not exist, or there is no member at all.
        """
        index = 0
        for path, image_format in locate(self._config):
            for unit in reader(image_format).plan(path, self._config):
                yield replace(unit, index=index)
                index += 1
        if not index:
            raise InputError(
                f"{', '.join(self._config.paths)}: no images; the archive or folder is empty"
            )

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads one unit in batches.

        Raises:
            InputError: if the archive as a whole turns out unreadable.
        """
        yield from reader(unit.format).read(unit, self._config)


def open_source(config: InputConfig) -> ImageSource:
    """Opens what the configuration names; reads nothing yet."""
    return ImageSource(config)
