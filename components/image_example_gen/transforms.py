"""The Beam steps of ingest: read and check units, compare digests, finish parts.

Elements are units, parts and packed columns; pixels go from a unit's reader to its files inside
one step and are never shuffled.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import numpy as np

from components import beam_metrics
from components.image_example_gen import account as accounts
from components.image_example_gen import duplicates
from components.image_example_gen.inspection import Inspected, inspect
from components.image_example_gen.output import OutputFolder, unwritable
from components.image_example_gen.parts import STAGING, PartWriter, finish_part
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.errors import InputError
from components.image_sources.sources import open_source

NAMESPACE: Final = "image_example_gen"
ACCOUNTS: Final = f"{STAGING}/accounts"
FAILED: Final = f"{STAGING}/failed"
_DIGESTS: Final = "digests"
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
        written = (
            units
            | "SpreadUnits" >> beam.Reshuffle()
            | "ReadAndCheck"
            >> beam.ParDo(ReadAndCheck(self.config, self.uri, self.threads)).with_outputs(
                _DIGESTS, main="parts"
            )
        )
        named = beam.pvalue.AsIter(
            written.parts | "NamedSplits" >> beam.Map(lambda part: part[1].account.named_splits)
        )
        requests = (
            written[_DIGESTS]
            | "GroupDigests" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.FlatMap(_find, drop_all=self.config.duplicates == "drop")
        )
        return (
            {"parts": written.parts, "requests": requests}
            | "GroupParts" >> beam.CoGroupByKey()
            | "FinishParts" >> beam.ParDo(FinishPart(self.uri), named)
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
        """Yields parts by number, and digests by partition."""
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
                        yield from _outputs(writer)
                        index += 1
                        writer = PartWriter(self._output, unit.index, index)
                yield from _outputs(writer)
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


def _outputs(writer: PartWriter) -> Iterator[Any]:
    """Finishes a part; counts what it holds."""
    part, digests = writer.finish()
    beam_metrics.count(NAMESPACE, "images", writer.rows)
    beam_metrics.count(NAMESPACE, "images_bytes", part.account.bytes)
    for reason, number in part.account.rejected.items():
        beam_metrics.count(NAMESPACE, f"rejected_{reason}", number)
    yield part.number, part
    for number, packed in digests:
        yield beam.pvalue.TaggedOutput(_DIGESTS, (number, (part.number, packed)))


def _find(
    partition: tuple[int, Iterable[tuple[int, bytes]]], drop_all: bool
) -> Iterator[tuple[int, bytes]]:
    return duplicates.find(partition[1], drop_all)


class FinishPart(beam.DoFn):
    """Moves a part's files into their splits.

    Args:
        uri: The artifact's folder.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def process(
        self, group: tuple[int, dict[str, Iterable[Any]]], named: Iterable[list[str]]
    ) -> Iterator[str]:
        """Yields the part's name."""
        output = OutputFolder(self._uri)
        if output.is_local and os.path.exists(output.path(FAILED)):
            return
        requests = np.frombuffer(b"".join(group[1]["requests"]), duplicates.REQUEST)
        splits = {split for names in named for split in names}
        for part in group[1]["parts"]:
            try:
                account = finish_part(part, requests, splits, output)
                output.write(f"{ACCOUNTS}/{part.name}.json", accounts.dumps(account))
            except OSError as error:
                raise RuntimeError(str(unwritable(self._uri, error))) from error
            yield part.name
