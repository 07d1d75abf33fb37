"""The Beam steps of ingest: read and check units, compare digests, finish parts.

Elements are units, parts and requests; pixels go from a unit's reader to its files inside
one step and are never shuffled.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np

from components import beam_metrics
from components.image_example_gen import account as accounts
from components.image_example_gen import duplicates
from components.image_example_gen.inspection import Inspected, inspect
from components.image_example_gen.output import OutputFolder, unwritable
from components.image_example_gen.parts import STAGING, Part, PartWriter, digests_file, finish_part
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.errors import InputError
from components.image_sources.sources import open_source

NAMESPACE: Final = "image_example_gen"
ACCOUNTS: Final = f"{STAGING}/accounts"
FAILED: Final = f"{STAGING}/failed"
# What one thread works on: small enough to keep all threads busy within a unit.
_SLICE_MEMBERS: Final = 256
_SLICE_BYTES: Final = 4 * 1024 * 1024


@dataclass
class Ingest(beam.PTransform):
    """Work units to the artifact's files and the account.

    Attributes:
        config: The input section, spans resolved.
        uri: The artifact's folder.
        threads: Threads that check images, per worker process.
    """

    config: InputConfig
    uri: str
    threads: int

    def expand(self, units: beam.PCollection[WorkUnit]) -> beam.PCollection[str]:
        """Gives the names of finished parts; their accounts are in the staging folder."""
        parts = (
            units
            | "SpreadUnits" >> beam.Reshuffle()
            | "ReadAndCheck" >> beam.ParDo(ReadAndCheck(self.config, self.uri, self.threads))
        )
        facts = beam.pvalue.AsIter(parts | "Facts" >> beam.Map(_facts_of))
        requests = (
            units.pipeline
            | "Partitions" >> beam.Create(range(duplicates.PARTITIONS))
            | "FindDuplicates"
            >> beam.FlatMap(_find, facts, uri=self.uri, drop_all=self.config.duplicates == "drop")
        )
        return (
            {"parts": parts, "requests": requests}
            | "GroupParts" >> beam.CoGroupByKey()
            | "FinishParts" >> beam.ParDo(FinishPart(self.uri), facts)
        )


class ReadAndCheck(beam.DoFn):
    """Reads units, checks every member, writes parts.

    Args:
        config: The input section.
        uri: The artifact's folder.
        threads: Threads that check images.
    """

    def __init__(self, config: InputConfig, uri: str, threads: int) -> None:
        self._config = config
        self._uri = uri
        self._threads = threads

    def setup(self) -> None:
        """Starts the threads."""
        self._output = OutputFolder(self._uri)
        self._pool = ThreadPoolExecutor(self._threads)

    def teardown(self) -> None:
        """Stops the threads."""
        self._pool.shutdown()

    def process(self, unit: WorkUnit) -> Iterator[Any]:
        """Yields parts by number."""
        if self._output.is_local and os.path.exists(self._output.path(FAILED)):
            return
        try:
            yield from self._write(unit)
        except InputError as error:
            self._output.write(FAILED, str(error).encode())
        except OSError as error:
            # No place may be left to say it; the driver then finds the exception itself.
            raise RuntimeError(str(unwritable(self._uri, error))) from error

    def _write(self, unit: WorkUnit) -> Iterator[Any]:
        """Writes the parts of one unit; a part ends where its size passes a unit's."""
        limits = self._config.units
        index = 0
        writer = PartWriter(self._output, unit.index, index)
        try:
            with beam_metrics.timed(NAMESPACE, "unit"):
                for images in self._inspected(unit):
                    writer.add(images)
                    if writer.rows >= limits.members or writer.size >= limits.max_bytes:
                        yield _finish(writer)
                        index += 1
                        writer = PartWriter(self._output, unit.index, index)
                yield _finish(writer)
        finally:
            writer.close()

    def _inspected(self, unit: WorkUnit) -> Iterator[Inspected]:
        """Reads ahead of the threads that check, by a bounded number of slices."""
        source = open_source(self._config)
        waiting: deque[Future[Inspected]] = deque()
        for batch in source.read(unit):
            for part in slices(batch):
                waiting.append(self._pool.submit(inspect, part, self._config))
                if len(waiting) > 2 * self._threads:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def slices(batch: MemberBatch) -> Iterator[MemberBatch]:
    """Cuts a batch into pieces for threads; the first one carries the rejects."""
    start = size = 0
    rejects, ignored = batch.rejects, batch.ignored
    for stop, data in enumerate(batch.data, 1):
        size += len(data)
        if stop - start < _SLICE_MEMBERS and size < _SLICE_BYTES and stop < len(batch):
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
            batch.names_are_paths,
        )
        start, size, rejects, ignored = stop, 0, [], 0
    if not batch.data:
        yield batch


def _finish(writer: PartWriter) -> tuple[int, Part]:
    """Finishes a part; counts what it holds."""
    part = writer.finish()
    beam_metrics.count(NAMESPACE, "images", writer.rows)
    beam_metrics.count(NAMESPACE, "images_bytes", part.account.bytes)
    for reason, number in part.account.rejected.items():
        beam_metrics.count(NAMESPACE, f"rejected_{reason}", number)
    return part.number, part


class _Facts(NamedTuple):
    """What all later steps need of every part: small."""

    number: int
    bounds: tuple[int, ...]
    named_splits: list[str]


def _facts_of(numbered: tuple[int, Part]) -> _Facts:
    number, part = numbered
    return _Facts(number, part.bounds, part.account.named_splits)


def _find(
    partition: int, facts: Iterable[_Facts], uri: str, drop_all: bool
) -> Iterator[tuple[int, bytes]]:
    """Reads one partition's rows of every part, and finds their copies."""
    output = OutputFolder(uri)
    size = duplicates.ROW.itemsize
    rows = []
    for number, bounds, _ in facts:
        start, stop = bounds[partition], bounds[partition + 1]
        if stop > start:
            name = digests_file(number)
            rows.append((number, output.read_range(name, start * size, (stop - start) * size)))
    yield from duplicates.find(rows, drop_all)


class FinishPart(beam.DoFn):
    """Moves a part's files into their splits.

    Args:
        uri: The artifact's folder.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def process(
        self, group: tuple[int, dict[str, Iterable[Any]]], facts: Iterable[_Facts]
    ) -> Iterator[str]:
        """Yields the part's name."""
        output = OutputFolder(self._uri)
        if output.is_local and os.path.exists(output.path(FAILED)):
            return
        requests = np.frombuffer(b"".join(group[1]["requests"]), duplicates.REQUEST)
        splits = {split for _, _, named in facts for split in named}
        for part in group[1]["parts"]:
            try:
                account = finish_part(part, requests, splits, output)
                output.write(f"{ACCOUNTS}/{part.name}.json", accounts.dumps(account))
            except OSError as error:
                raise RuntimeError(str(unwritable(self._uri, error))) from error
            yield part.name
