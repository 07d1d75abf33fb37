"""Turns one work unit into parts: reads the members, checks and hashes them, writes records.

The Beam step in `transforms.py` and the worker processes of `workers.py` call it. It imports
neither Beam nor Arrow, so that a worker starts in a third of a second.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.inspection import inspect
from components.image_example_gen.parts import Part, PartWriter
from components.image_sources.base import WorkUnit
from components.image_sources.sources import ImageSource
from components.unit_engine import work_through

_SLICE_MEMBERS: Final = 256
"""Members per task of a thread: few enough to keep all threads busy within one unit."""


def write_unit(unit: WorkUnit, job: IngestJob, output: str, threads: int) -> Iterator[Part]:
    """Reads a unit and writes its parts; a part ends when it exceeds the size of a unit.

    Args:
        unit: The unit.
        job: The input and what to store.
        output: The artifact's folder.
        threads: Threads that check images; 1 means the calling thread.

    Yields:
        Finished parts in the order of their numbers.

    Raises:
        InputError: if the archive as a whole is unreadable.
        OSError: if the output cannot be written.
    """
    limits = job.input.units
    index = 0
    writer = PartWriter(output, unit.index, index)
    inspected = work_through(
        ImageSource(job.input),
        unit,
        partial(inspect, job=job),
        threads=threads,
        most=_SLICE_MEMBERS,
    )
    try:
        for images in inspected:
            writer.add(images)
            if writer.rows >= limits.members or writer.size >= limits.max_bytes:
                yield writer.finish()
                index += 1
                writer = PartWriter(output, unit.index, index)
        yield writer.finish()
    finally:
        writer.close()
