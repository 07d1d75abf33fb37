"""Streams tar archives, compressed or not, with labels and splits from the folders inside."""

from collections.abc import Iterator

from components.image_sources import tar_stream
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import MIB, InputConfig
from components.image_sources.ignored import ignored_reason
from components.image_sources.naming import PathNaming

BATCH_BYTES = 16 * MIB
"""Size at which a batch ends, even if it has few members."""


def plan(path: str, config: InputConfig) -> Iterator[WorkUnit]:
    """Plans one unit, because a tar can only be read from its beginning."""
    del config
    yield WorkUnit(0, path, "tar")


def read(unit: WorkUnit, config: InputConfig) -> Iterator[MemberBatch]:
    """Reads one archive."""
    naming = PathNaming(config, unit.split)
    batch, size = MemberBatch(unit.source), 0
    for member in tar_stream.members(unit.source, config):
        reason = "folder" if member.kind == "folder" else ignored_reason(member.name)
        if reason:
            batch.ignore(member.name, reason)
        elif member.kind:
            batch.refuse(member.name, member.kind, member.detail)
        else:
            place = naming.place(member.name)
            batch.add(member.name, member.data, place.label, place.split)
            size += len(member.data)
        if batch.members >= config.units.batch or size >= BATCH_BYTES:
            yield batch
            batch, size = MemberBatch(unit.source), 0
    yield batch
