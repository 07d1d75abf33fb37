"""Works through one unit of members: reads it, divides it among threads, checks every header.

Ingest and the bulk job are two uses of it, which differ in what they do with a checked batch
(`image_example_gen/inspection.py`, `bulk_inference/annotation/batch_rows.py`). It imports neither
Beam nor Arrow, so that a worker process starts in a third of a second.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

import cv2

from components.image_checks import ImageFaultError, ImageHeader, check
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.config import LimitsConfig
from components.image_sources.sources import ImageSource

SLICE_BYTES: Final = 8 * 1024 * 1024
"""Bytes at which a slice ends: few enough to keep all threads busy within one unit of photos."""

ResultT = TypeVar("ResultT")


@dataclass
class CheckedBatch:
    """Separates a batch's members with valid headers from its rejects.

    Attributes:
        batch: The batch.
        rejects: Its unusable members: those that could not be read, and all that are refused later.
        places: Positions in the batch of the members that may be decoded.
        headers: The headers of these members.
    """

    batch: MemberBatch
    rejects: list[Reject]
    places: list[int] = field(default_factory=list)
    headers: list[ImageHeader] = field(default_factory=list)

    def refuse(self, place: int, fault: ImageFaultError) -> None:
        """Adds the member at a position of the batch to the rejects."""
        name = self.batch.names[place]
        self.rejects.append(self.batch.reject(name, fault.stage, fault.reason, fault.detail))


def check_batch(
    batch: MemberBatch, limits: LimitsConfig, skip: Collection[int] = ()
) -> CheckedBatch:
    """Validates the headers of a batch, without decoding any pixels.

    Args:
        batch: A batch of a source.
        limits: Limits on bytes, pixels and ratio.
        skip: Positions to skip.
    """
    checked = CheckedBatch(batch, list(batch.rejects))
    for place, data in enumerate(batch.data):
        if place in skip:
            continue
        header = check(data, limits)
        if isinstance(header, ImageFaultError):
            checked.refuse(place, header)
        else:
            checked.places.append(place)
            checked.headers.append(header)
    return checked


def work_through(
    source: ImageSource,
    unit: WorkUnit,
    work: Callable[[MemberBatch], ResultT],
    *,
    threads: int,
    most: int,
) -> Iterator[ResultT]:
    """Reads a unit and yields the result of each of its slices, in source order.

    The caller's thread reads, a bounded number of slices ahead of the threads that work. OpenCV,
    hashlib and TensorFlow release the interpreter lock, so these overlap.

    Args:
        source: The source of the unit.
        unit: The unit.
        work: Called with each slice.
        threads: Threads that work; 1 means the calling thread, and whole batches.
        most: Most members of a slice.

    Raises:
        InputError: if the archive as a whole is unreadable.
    """
    if threads == 1:
        yield from map(work, source.read(unit))
        return
    pool = _shared_pool(threads)
    under_way: deque[Future[ResultT]] = deque()
    try:
        for batch in source.read(unit):
            for part in batch.slices(most, SLICE_BYTES):
                under_way.append(pool.submit(work, part))
                if len(under_way) > 2 * threads:
                    yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        # If reading or a slice fails, the waiting slices need not be done.
        for future in under_way:
            future.cancel()


_POOLS: Final[dict[int, ThreadPoolExecutor]] = {}
_POOL_LOCK: Final = threading.Lock()


def _shared_pool(threads: int) -> ThreadPoolExecutor:
    """Returns the process's pool, which units in progress at the same time share."""
    with _POOL_LOCK:
        if threads not in _POOLS:
            cv2.setNumThreads(0)  # an image is decoded on the thread that asks for it
            _POOLS[threads] = ThreadPoolExecutor(threads, thread_name_prefix="unit-slice")
        return _POOLS[threads]
