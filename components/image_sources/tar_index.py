"""Keeps where the units of a tar begin, so that a further job need not read it through to know.

`tar.py` plans with it. The files lie in a folder of the job's output, never beside the archive.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from components.image_sources.base import WorkUnit
from components.image_sources.config import InputConfig
from components.image_sources.file_facts import file_facts
from components.image_sources.repeated_names import pack_counts
from components.image_sources.seek_points import EntryPoint
from trainer.storage import files

_FORMAT: Final = "2"

UnitRow = tuple[int, int, int, EntryPoint, dict[str, int]]
"""Start, end and number of members of a unit, where to enter for it, and how often its names
occurred in earlier units."""


class TarIndex:
    """Reads and writes the index of each tar of a job.

    Its name contains a digest of the archive's size, time and samples, and of the options that
    decide about units, so that the index of another archive or job isn't found.

    Args:
        folder: The folder.
        writable: Whether a tar without an index may be read to make one.
    """

    def __init__(self, folder: str, *, writable: bool = True) -> None:
        self._folder = folder
        self.writable = writable

    def load(self, path: str, config: InputConfig) -> list[WorkUnit] | None:
        """Returns the units of a tar; None if there is no index, or a damaged one."""
        name = self._name(path, config)
        try:
            found = json.loads(files.read_bytes(f"{name}.json"))
            points = files.read_bytes(f"{name}.points") if found["points"] else b""
            if found["points"] != _digest(points):
                return None
            return [_unit(path, name if points else "", row) for row in found["units"]]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def keep(
        self,
        path: str,
        config: InputConfig,
        rows: Sequence[UnitRow],
        points: bytes,
    ) -> list[WorkUnit]:
        """Stores the index of a tar in place of older ones.

        Args:
            path: The tar.
            config: The input section.
            rows: The units.
            points: What else a gzip file is entered with.

        Returns:
            The units.
        """
        name = self._name(path, config)
        prefix = name.rpartition("/")[2].partition("-")[0]
        for old in files.list_names(self._folder):
            if old.startswith(f"{prefix}-"):
                files.remove(f"{self._folder}/{old}")
        if points:
            files.write_bytes(f"{name}.points", points)
        content = {"points": _digest(points), "units": rows}
        # Without this file, which comes last, there is no index.
        files.write_bytes(f"{name}.json", json.dumps(content).encode())
        return [_unit(path, name if points else "", row) for row in rows]

    def _name(self, path: str, config: InputConfig) -> str:
        """Returns the path of the index without its suffix."""
        digest = hashlib.sha256(_FORMAT.encode())
        for fact in file_facts(path, config.storage):
            digest.update(fact)
        options = (config.units, config.limits, config.labels.source)
        digest.update(repr(options).encode())
        archive = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
        return f"{self._folder}/{archive[:16]}-{digest.hexdigest()[:32]}"


def _digest(points: bytes) -> str:
    return hashlib.sha256(points).hexdigest() if points else ""


def _unit(path: str, name: str, row: UnitRow) -> WorkUnit:
    start, stop, members, place, earlier = row
    entry = EntryPoint(*place)._replace(points=f"{name}.points" if name else "")
    return WorkUnit(
        *(0, path, "tar", start, stop, members),
        extra=entry.encoded(),
        earlier=pack_counts(earlier),
    )
