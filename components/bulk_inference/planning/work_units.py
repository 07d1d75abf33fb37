"""Plans the work units of a job, with names that are stable as long as their content is.

`job.py` calls it before it builds the pipeline; it reads directories and timestamps, but no image.
"""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from components.bulk_inference.config import BulkJob
from components.bulk_inference.output.ledger import INDEX
from components.image_sources.base import WorkUnit
from components.image_sources.sources import ImageSource
from components.image_sources.tar_index import TarIndex


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
    index = TarIndex(posixpath.join(config.output, INDEX), writable=not config.dry_run)
    source = ImageSource(config.input, index)
    for unit in source.units():
        ordinal = ordinals[unit.source]
        ordinals[unit.source] += 1
        digest = hashlib.sha256(f"{unit.source}\0{unit.format}\0".encode())
        digest.update(source.version(unit))
        name = f"{archive_name(unit.source)}/{ordinal:06d}-{digest.hexdigest()[:16]}"
        yield PlannedUnit(unit, name)


def archive_name(source: str) -> str:
    """Returns a folder name for a source: the last part of its path, in portable characters.

    Different sources of one name share the folder; fingerprints distinguish their files.
    """
    last = posixpath.basename(source.rstrip("/")) or "root"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last).lstrip("._") or "archive"
