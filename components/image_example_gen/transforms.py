"""Defines the Beam steps of ingest: read and check units, compare digests, finish parts.

`ingest.py` uses them on clusters and for small inputs; `local_run.py` does the same without Beam.
Elements are units, parts and requests; pixels go from a unit's reader to its files inside one step
and are never shuffled.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam

from components import beam_metrics
from components.image_example_gen import duplicates
from components.image_example_gen.finishing import PartFacts, facts_of, find_copies, finish_part
from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.parts import STAGING, Part, output_explained
from components.image_example_gen.units import write_unit
from components.image_sources.base import WorkUnit
from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.failures import OutputError

NAMESPACE: Final = "image_example_gen"
FAILED: Final = f"{STAGING}/failed"


@dataclass
class Ingest(beam.PTransform):
    """Transforms work units into the artifact's files and the account.

    Attributes:
        job: The input and what to store.
        uri: The artifact's folder.
        threads: Threads that check images, per worker process.
    """

    job: IngestJob
    uri: str
    threads: int

    def expand(self, units: beam.PCollection[WorkUnit]) -> beam.PCollection[str]:
        """Returns the names of finished parts; their accounts are in the staging folder."""
        parts = (
            units
            | "SpreadUnits" >> beam.Reshuffle()
            | "WriteUnits" >> beam.ParDo(WriteUnit(self.job, self.uri, self.threads))
        )
        facts = beam.pvalue.AsIter(parts | "Facts" >> beam.MapTuple(lambda _, part: facts_of(part)))
        requests = (
            units.pipeline
            | "Partitions" >> beam.Create(range(duplicates.PARTITIONS))
            | "FindDuplicates"
            >> beam.FlatMap(
                _find, facts, uri=self.uri, drop_all=self.job.input.duplicates.exact == "drop"
            )
        )
        by_part = {"parts": parts, "requests": requests}
        if self.job.input.duplicates.near != "off":
            by_part["near"] = (
                units.pipeline
                | "AllParts" >> beam.Create([None])
                | "FindNearDuplicates"
                >> beam.FlatMap(
                    _find_near,
                    facts,
                    beam.pvalue.AsIter(requests),
                    uri=self.uri,
                    is_grouped=self.job.is_grouped,
                )
            )
        return (
            by_part
            | "GroupParts" >> beam.CoGroupByKey()
            | "FinishParts" >> beam.ParDo(FinishPart(self.uri), facts)
        )


class WriteUnit(beam.DoFn):
    """Reads units, checks every member, writes parts.

    Args:
        job: The input and what to store.
        uri: The artifact's folder.
        threads: Threads that check images.
    """

    def __init__(self, job: IngestJob, uri: str, threads: int) -> None:
        self._job = job
        self._uri = uri
        self._threads = threads

    def process(self, unit: WorkUnit) -> Iterator[tuple[int, Part]]:
        """Yields parts by number."""
        if _has_failed(self._uri):
            return
        try:
            with output_explained(self._uri), beam_metrics.timed(NAMESPACE, "unit"):
                for part in write_unit(unit, self._job, self._uri, self._threads):
                    _count(part)
                    yield part.number, part
        except OutputError as error:
            # The output may have no room for an error file; the driver then parses the exception.
            raise RuntimeError(str(error)) from error
        except InputError as error:
            files.write_bytes(f"{self._uri}/{FAILED}", str(error).encode())


def _has_failed(uri: str) -> bool:
    """Returns whether another worker failed; asking an object store would cost a request."""
    return not files.is_remote(uri) and os.path.exists(f"{uri}/{FAILED}")


def _count(part: Part) -> None:
    """Adds a part's contents to the Beam counters."""
    beam_metrics.count(NAMESPACE, "images", part.counts.total())
    beam_metrics.count(NAMESPACE, "images_bytes", part.account.bytes)
    for reason, number in part.account.rejected.items():
        beam_metrics.count(NAMESPACE, f"rejected_{reason}", number)


def _find(
    partition: int, facts: Iterable[PartFacts], uri: str, drop_all: bool
) -> Iterator[tuple[int, bytes]]:
    yield from find_copies(partition, facts, uri, drop_all)


def _find_near(
    _: None,
    facts: Iterable[PartFacts],
    requests: Iterable[tuple[int, bytes]],
    uri: str,
    is_grouped: bool,
) -> Iterator[tuple[int, bytes]]:
    # Few jobs load SciPy.
    from components.image_example_gen.near_copies import find_near_copies

    if not _has_failed(uri):
        yield from find_near_copies(facts, requests, uri, is_grouped)


class FinishPart(beam.DoFn):
    """Moves a part's files into their splits.

    Args:
        uri: The artifact's folder.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def process(
        self, group: tuple[int, dict[str, Iterable[Any]]], facts: Iterable[PartFacts]
    ) -> Iterator[str]:
        """Yields the part's name."""
        if _has_failed(self._uri):
            return
        for part in group[1]["parts"]:
            try:
                with output_explained(self._uri):
                    finish_part(
                        part, group[1]["requests"], group[1].get("near", ()), facts, self._uri
                    )
            except OutputError as error:
                raise RuntimeError(str(error)) from error
            yield part.name
