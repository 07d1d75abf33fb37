"""The Beam steps of ingest: read and check units, compare digests, finish parts.

Elements are units, parts and requests; pixels go from a unit's reader to its files inside
one step and are never shuffled.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np

from components import beam_metrics
from components.image_example_gen import account as accounts
from components.image_example_gen import duplicates
from components.image_example_gen.finishing import finish_part
from components.image_example_gen.output import OutputFolder, unwritable
from components.image_example_gen.parts import STAGING, Part, digests_file
from components.image_example_gen.units import write_unit
from components.image_sources.base import WorkUnit
from components.image_sources.config import InputConfig
from components.image_sources.errors import InputError

NAMESPACE: Final = "image_example_gen"
ACCOUNTS: Final = f"{STAGING}/accounts"
FAILED: Final = f"{STAGING}/failed"


@dataclass
class ReadAndCheck(beam.PTransform):
    """Work units to written parts, keyed by number.

    Attributes:
        config: The input section, spans resolved.
        uri: The artifact's folder.
        threads: Threads that check images, per worker process.
    """

    config: InputConfig
    uri: str
    threads: int

    def expand(self, units: beam.PCollection[WorkUnit]) -> beam.PCollection[tuple[int, Part]]:
        """Spreads the units over workers, which read, check and write them."""
        return (
            units
            | "SpreadUnits" >> beam.Reshuffle()
            | "WriteUnits" >> beam.ParDo(WriteUnit(self.config, self.uri, self.threads))
        )


@dataclass
class FinishParts(beam.PTransform):
    """Written parts to the artifact's files.

    Attributes:
        config: The input section.
        uri: The artifact's folder.
    """

    config: InputConfig
    uri: str

    def expand(self, parts: beam.PCollection[tuple[int, Part]]) -> beam.PCollection[str]:
        """Gives the names of finished parts; their accounts are in the staging folder."""
        facts = beam.pvalue.AsIter(parts | "Facts" >> beam.Map(_facts_of))
        requests = (
            parts.pipeline
            | "Partitions" >> beam.Create(range(duplicates.PARTITIONS))
            | "FindDuplicates"
            >> beam.FlatMap(_find, facts, uri=self.uri, drop_all=self.config.duplicates == "drop")
        )
        return (
            {"parts": parts, "requests": requests}
            | "GroupParts" >> beam.CoGroupByKey()
            | "FinishParts" >> beam.ParDo(FinishPart(self.uri), facts)
        )


class WriteUnit(beam.DoFn):
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

    def process(self, unit: WorkUnit) -> Iterator[tuple[int, Part]]:
        """Yields parts by number."""
        output = OutputFolder(self._uri)
        if output.is_local and os.path.exists(output.path(FAILED)):
            return
        try:
            with beam_metrics.timed(NAMESPACE, "unit"):
                for part in write_unit(unit, self._config, output, self._threads):
                    _count(part)
                    yield part.number, part
        except InputError as error:
            output.write(FAILED, str(error).encode())
        except OSError as error:
            # No place may be left to say it; the driver then finds the exception itself.
            raise RuntimeError(str(unwritable(self._uri, error))) from error


def _count(part: Part) -> None:
    """Counts what a part holds."""
    beam_metrics.count(NAMESPACE, "images", part.counts.total())
    beam_metrics.count(NAMESPACE, "images_bytes", part.account.bytes)
    for reason, number in part.account.rejected.items():
        beam_metrics.count(NAMESPACE, f"rejected_{reason}", number)


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
