"""Plans the work units of a job, with names that are stable as long as their content is.

`job.py` calls it before it builds the pipeline; it reads directories and timestamps, but no image.
"""

import hashlib
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from components.bulk_inference.config import BulkJob
from components.image_sources import folder
from components.image_sources.base import WorkUnit
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource
from trainer.storage import files


@dataclass(frozen=True)
class PlannedUnit:
    """Holds a work unit and the name under which its results are stored.

    Attributes:
        unit: The unit to read.
        name: `<archive>/<ordinal>-<fingerprint>`, which sorts in source order and changes with
            the content and the position in the archive.
        skip: Positions of copies to skip, packed by `exact_copies.py`.
        earlier: Shards of earlier versions of the archive, whose rows may be reused.
    """

    unit: WorkUnit
    name: str
    skip: bytes = b""
    earlier: tuple[str, ...] = ()


def plan_units(config: BulkJob) -> Iterator[PlannedUnit]:
    """Plans the whole input in source order.

    Args:
        config: The job.

    Raises:
        InputError: if there is nothing to read.
    """
    ordinals: Counter[str] = Counter()
    for unit in ImageSource(config.input).units():
        ordinal = ordinals[unit.source]
        ordinals[unit.source] += 1
        digest = hashlib.sha256(f"{unit.source}\0{unit.format}\0".encode())
        digest.update(_fingerprint(unit, config.input))
        name = f"{archive_name(unit.source)}/{ordinal:06d}-{digest.hexdigest()[:16]}"
        yield PlannedUnit(unit, name)


def archive_name(source: str) -> str:
    """Returns a folder name for a source: the last part of its path, in portable characters.

    Different sources of one name share the folder; fingerprints distinguish their files.
    """
    last = posixpath.basename(source.rstrip("/")) or "root"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last).lstrip("._") or "archive"


def _fingerprint(unit: WorkUnit, config: InputConfig) -> bytes:
    """Returns a value that changes with the unit's members, computed without reading them.

    A zip's directory has every member's name, size and checksum, so the parts of a zip that grows
    keep their fingerprints. For files in a folder, size and modification time count. For objects
    under a Cloud Storage prefix only names count, because one request per object would cost as
    much as reading it. Any other source counts as a whole, with its size and its modification time
    or generation.
    """
    if unit.format == "zip":
        archive = files.open_ranged(unit.source, config.storage)
        try:
            return archive.read(unit.start, unit.stop - unit.start)
        finally:
            archive.close()
    if unit.format == "folder" and not files.is_remote(unit.source):
        names = folder.unpack_names(unit.extra)
        return "\0".join(f"{name}\0{_version(unit.source, name)}" for name in names).encode(
            "utf-8", "surrogateescape"
        )
    place = f"{unit.start}\0{unit.stop}\0".encode() + unit.extra
    if unit.format in ("folder", "tfds"):
        return place
    facts = files.stat(unit.source, config.storage)
    return place + f"\0{facts.size}\0{facts.version}".encode()


def _version(root: str, name: str) -> str:
    try:
        status = os.stat(os.path.join(root, name))
    except OSError as error:
        return f"unreadable {error.errno}"
    return f"{status.st_size} {status.st_mtime_ns}"
