"""Turns one work unit into parts: reads the members, checks and hashes them, writes records.

The Beam step in `transforms.py` and the worker processes of `workers.py` call it. It imports
neither Beam nor Arrow, so that a worker starts in a third of a second.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.inspection import Inspected, inspect
from components.image_example_gen.parts import Part, PartWriter
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.named_counts import NamedCounts
from components.image_sources.sources import open_source

# Members per task of a thread: few enough to keep all threads busy within one unit.
_SLICE_MEMBERS: Final = 256
_SLICE_BYTES: Final = 4 * 1024 * 1024


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
    try:
        for images in _inspected(unit, job, threads):
            writer.add(images)
            if writer.rows >= limits.members or writer.size >= limits.max_bytes:
                yield writer.finish()
                index += 1
                writer = PartWriter(output, unit.index, index)
        yield writer.finish()
    finally:
        writer.close()


def _inspected(unit: WorkUnit, job: IngestJob, threads: int) -> Iterator[Inspected]:
    """Yields checked slices, reading a bounded number of slices ahead of the threads."""
    batches = open_source(job.input).read(unit)
    if threads == 1:
        yield from (inspect(batch, job) for batch in batches)
        return
    waiting: deque[Future[Inspected]] = deque()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        # If reading fails, the queued slices need not be checked.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for batch in batches:
            for part in slices(batch):
                waiting.append(pool.submit(inspect, part, job))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def slices(batch: MemberBatch, most: int = _SLICE_MEMBERS) -> Iterator[MemberBatch]:
    """Divides a batch into slices of at most `most` members; the first has all the rejects."""
    start = size = 0
    rejects, ignored, renamed, origins = batch.rejects, batch.ignored, batch.renamed, batch.origins
    for stop, data in enumerate(batch.data, 1):
        size += len(data)
        if stop - start < most and size < _SLICE_BYTES and stop < len(batch):
            continue
        yield MemberBatch(
            batch.source,
            batch.names[start:stop],
            batch.data[start:stop],
            batch.labels[start:stop],
            batch.splits[start:stop],
            None if batch.identity is None else batch.identity[start:stop],
            rejects,
            ignored,
            renamed,
            origins,
            batch.names_are_paths,
        )
        start, size = stop, 0
        rejects, ignored, renamed, origins = [], NamedCounts(), {}, NamedCounts()
    if not batch.data:
        yield batch
