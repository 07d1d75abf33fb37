"""Finds exact copies within an archive, to skip them before the model runs.

With `bulk.duplicates: drop` a first pass hashes every member; of members with equal bytes the
first in source order is kept. The hashes of each unit are stored, so that a second run does not
read the archive again.
"""

import hashlib
import posixpath
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Final

import numpy as np

from components.bulk_inference.config import BulkJob
from components.bulk_inference.output.ledger import HASHES, Ledger
from components.bulk_inference.planning.work_units import PlannedUnit
from components.image_sources.sources import ImageSource

_BYTES: Final = 32
_AT_A_TIME: Final = 4_000_000
"""Largest number of hashes sorted in memory at once; more are partitioned by their first bytes."""


def hashes_file(name: str) -> str:
    """Returns the name of a unit's file of hashes: 32 bytes per member, in source order."""
    return posixpath.join(HASHES, f"{name}.sha256")


def hash_unit(planned: PlannedUnit, config: BulkJob) -> int:
    """Hashes the members of one unit, as a Beam step.

    Args:
        planned: The unit.
        config: The job.

    Returns:
        The number of its members without rejects.
    """
    batches = ImageSource(config.input).read(planned.unit)
    digests = [digest for batch in batches for digest in batch.digests()]
    Ledger(config.output).write(hashes_file(planned.name), b"".join(digests))
    return len(digests)


def without_duplicates(ledger: Ledger, planned: list[PlannedUnit]) -> list[PlannedUnit]:
    """Returns units that skip copies of earlier members.

    The skipped positions become part of a unit's name, so that a unit with other copies is
    another unit.

    Args:
        ledger: The job's files.
        planned: All units in source order, with their hashes written.
    """
    skips = _later_copies(ledger, planned)
    units = []
    for unit, skip in zip(planned, skips, strict=True):
        if not len(skip):
            units.append(unit)
            continue
        packed = zlib.compress(skip.astype("<u4").tobytes())
        suffix = hashlib.sha256(packed).hexdigest()[:8]
        units.append(replace(unit, name=f"{unit.name}-{suffix}", skip=packed))
    return units


def without_known_duplicates(ledger: Ledger, planned: list[PlannedUnit]) -> list[PlannedUnit]:
    """Returns units that skip copies, up to the first one whose hashes are missing.

    Which copies a unit skips depends on the units before it only.
    """
    hashed = list(takewhile(lambda unit: ledger.exists(hashes_file(unit.name)), planned))
    return without_duplicates(ledger, hashed) + planned[len(hashed) :]


def skipped_positions(planned: PlannedUnit) -> frozenset[int]:
    """Returns the positions of the members of a unit that are skipped."""
    if not planned.skip:
        return frozenset()
    return frozenset(np.frombuffer(zlib.decompress(planned.skip), "<u4").tolist())


def _later_copies(ledger: Ledger, planned: list[PlannedUnit]) -> list[np.ndarray]:
    lengths = [len(hashes) for hashes in _hashes(ledger, planned)]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    parts = -(-int(starts[-1]) // _AT_A_TIME)
    copies: list[np.ndarray] = []
    for part in range(parts):
        chosen, positions = [], []
        for start, hashes in zip(starts, _hashes(ledger, planned), strict=False):
            mine = np.flatnonzero(hashes[:, :2].astype(np.uint32) @ [256, 1] % parts == part)
            chosen.append(hashes[mine])
            positions.append(mine + start)
        digests = np.concatenate(chosen).view(f"V{_BYTES}").ravel()
        where = np.concatenate(positions)
        # Positions ascend and `np.unique` reports the first index of each value.
        _, first = np.unique(digests, return_index=True)
        copies.append(np.delete(where, first))
    found = np.sort(np.concatenate(copies)) if copies else np.zeros(0, np.int64)
    cuts = np.searchsorted(found, starts)
    return [
        found[cuts[at] : cuts[at + 1]] - starts[at] for at in range(len(planned))
    ]  # fmt: skip


def _hashes(ledger: Ledger, planned: list[PlannedUnit]) -> Iterator[np.ndarray]:
    for unit in planned:
        content = ledger.read(hashes_file(unit.name))
        yield np.frombuffer(content, np.uint8).reshape(-1, _BYTES)
