"""Exact copies within an archive: which members to leave out, decided before the model runs.

With `bulk.duplicates: drop` a first pass hashes every member; of equal bytes the first in source
order stays. The sums of a unit's hashes are kept, so that a second run reads nothing again.
"""

import hashlib
import posixpath
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from components.bulk_inference import ledger, storage
from components.bulk_inference.config import BulkJob
from components.bulk_inference.planning import PlannedUnit
from components.image_sources.sources import open_source

_BYTES: Final = 32
_AT_A_TIME: Final = 4_000_000
"""Hashes sorted in memory together; more are divided by their first bytes."""


def hashes_path(output: str, name: str) -> str:
    """Where the hashes of a unit are: 32 bytes a member, in source order."""
    return posixpath.join(output, ledger.HASHES, f"{name}.sha256")


def hash_unit(planned: PlannedUnit, config: BulkJob) -> int:
    """Hashes the members of one unit; a Beam step.

    Args:
        planned: The unit.
        config: The job.

    Returns:
        How many members it has, rejects left out.
    """
    digests = [
        hashlib.sha256(data).digest()
        for batch in open_source(config.input).read(planned.unit)
        for data in batch.data
    ]
    storage.write_bytes(hashes_path(config.output, planned.name), b"".join(digests))
    return len(digests)


def without_duplicates(output: str, planned: list[PlannedUnit]) -> list[PlannedUnit]:
    """Gives units that leave out copies of members before them.

    What is left out becomes part of a unit's name: other copies, another unit.

    Args:
        output: Of the job.
        planned: All units, in source order, their hashes written.
    """
    skips = _later_copies(output, planned)
    units = []
    for unit, skip in zip(planned, skips, strict=True):
        if not len(skip):
            units.append(unit)
            continue
        packed = zlib.compress(skip.astype("<u4").tobytes())
        suffix = hashlib.sha256(packed).hexdigest()[:8]
        units.append(replace(unit, name=f"{unit.name}-{suffix}", skip=packed))
    return units


def skipped_positions(planned: PlannedUnit) -> frozenset[int]:
    """Positions among a unit's members that are left out."""
    if not planned.skip:
        return frozenset()
    return frozenset(np.frombuffer(zlib.decompress(planned.skip), "<u4").tolist())


def _later_copies(output: str, planned: list[PlannedUnit]) -> list[np.ndarray]:
    lengths = [len(hashes) for hashes in _hashes(output, planned)]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    parts = -(-int(starts[-1]) // _AT_A_TIME)
    copies: list[np.ndarray] = []
    for part in range(parts):
        chosen, positions = [], []
        for start, hashes in zip(starts, _hashes(output, planned), strict=False):
            mine = np.flatnonzero(hashes[:, :2].astype(np.uint32) @ [256, 1] % parts == part)
            chosen.append(hashes[mine])
            positions.append(mine + start)
        digests = np.concatenate(chosen).view(f"V{_BYTES}").ravel()
        where = np.concatenate(positions)
        # The first of each value: positions rise, and numpy's unique reports the first.
        _, first = np.unique(digests, return_index=True)
        copies.append(np.delete(where, first))
    found = np.sort(np.concatenate(copies)) if copies else np.zeros(0, np.int64)
    cuts = np.searchsorted(found, starts)
    return [
        found[cuts[at] : cuts[at + 1]] - starts[at] for at in range(len(planned))
    ]  # fmt: skip


def _hashes(output: str, planned: list[PlannedUnit]) -> Iterator[np.ndarray]:
    for unit in planned:
        content = storage.read_bytes(hashes_path(output, unit.name))
        yield np.frombuffer(content, np.uint8).reshape(-1, _BYTES)
