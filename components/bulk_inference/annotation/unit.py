"""Processes one work unit from archive to shard: reads, checks, decodes, annotates, writes.

Beam's workers call `annotate_unit`. The calling thread reads and writes, while each of the
process's threads turns a batch of bytes into rows, so that decoding and the model overlap.
"""

import posixpath
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import cv2
import pyarrow as pa

from components.bulk_inference.annotation.batch_rows import BatchResult, annotate_batch
from components.bulk_inference.annotation.handler import Annotator, shared_annotator
from components.bulk_inference.annotation.schema import (
    DUPLICATE_SCHEMA,
    REJECT_SCHEMA,
    table_schema,
    texts,
)
from components.bulk_inference.config import BulkJob
from components.bulk_inference.drift.drift_sums import DriftSums
from components.bulk_inference.output import ledger
from components.bulk_inference.planning.exact_copies import skipped_positions
from components.bulk_inference.planning.reuse import EarlierRows
from components.bulk_inference.planning.work_units import PlannedUnit
from components.bulk_inference.running.counters import UnitCounts
from components.bulk_inference.running.progress import TALLY
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.named_counts import NamedCounts
from components.image_sources.sources import open_source
from components.sinks import SINKS, ParquetSink
from trainer.errors import InputError
from trainer.model_card import ModelCard
from trainer.storage import files
from trainer.storage.failures import OutputError


@dataclass(frozen=True)
class JobSpec:
    """Holds what a worker needs; it is pickled, so it names the model instead of holding it.

    Attributes:
        config: The job.
        card: The model's card.
        workers: Number of cores of one worker process.
    """

    config: BulkJob
    card: ModelCard
    workers: int

    @property
    def threads(self) -> int:
        """Returns the number of batch threads: one more than cores, as threads sometimes wait."""
        return self.workers + 1


_POOLS: Final[dict[int, ThreadPoolExecutor]] = {}
_POOL_LOCK: Final = threading.Lock()


def _shared_pool(threads: int) -> ThreadPoolExecutor:
    with _POOL_LOCK:
        if threads not in _POOLS:
            cv2.setNumThreads(0)  # an image is decoded on the thread that asks for it
            _POOLS[threads] = ThreadPoolExecutor(threads, thread_name_prefix="annotate")
        return _POOLS[threads]


def annotate_unit(
    planned: PlannedUnit, spec: JobSpec, counts: UnitCounts | None = None
) -> ledger.UnitRecord:
    """Processes one unit idempotently: a second run writes the same files.

    Args:
        planned: The unit.
        spec: The job.
        counts: Receives the counts of every batch.

    Returns:
        The unit's record, after it was written. If the archive as a whole is unreadable, the error
        message is written instead, and the job fails with it.
    """
    begin = time.perf_counter()
    config, card = spec.config, spec.card
    annotator = shared_annotator(
        card,
        workers=spec.workers,
        max_images=config.batch.max_images,
        columns=config.columns,
    )
    record = ledger.UnitRecord(planned.name, planned.unit.source)
    shard = ledger.shard_path(planned.name, config)
    rejects: list[Reject] = []
    copies: list[tuple[str, str]] = []
    drift = DriftSums(card)
    schema = table_schema(config.columns, card)
    try:
        with ExitStack() as stack:
            file = stack.enter_context(files.writing(posixpath.join(config.output, shard)))
            sinks = [SINKS[config.format](file, schema)]
            opened = {shard: file}
            if config.format == "npy":
                # An array has no columns; the index holds the keys and all other columns.
                index = f"{shard.removesuffix('.npy')}.index.parquet"
                path = posixpath.join(config.output, index)
                opened[index] = stack.enter_context(files.writing(path))
                columns = [field for field in schema if field.name != "embedding"]
                sinks.append(ParquetSink(opened[index], pa.schema(columns)))
            for result in _results(planned, spec, annotator):
                _add(record, result)
                TALLY.add(result.counts)
                if counts is not None:
                    counts.add(result.counts)
                rejects.extend(result.rejects)
                copies.extend(result.duplicates)
                if result.drift is not None:
                    drift.merge(result.drift)
                for sink in sinks if result.rows is not None else ():
                    sink.write(result.rows)
            for sink in sinks:
                sink.close()
            record.files.update({name: each.tell() for name, each in opened.items()})
    except OutputError:
        raise
    except InputError as error:
        ledger.write_error(config.output, planned.name, str(error))
        return record
    rows: list[tuple[str, ...]] = [
        (_key(reject, planned.unit.format), *reject) for reject in rejects
    ]
    _write_rest(record, config.output, rows, copies)
    record.drift = drift.as_dict()
    record.batch_limit = annotator.batch_limit
    record.seconds = time.perf_counter() - begin
    ledger.write_record(config.output, record)
    return record


def _results(planned: PlannedUnit, spec: JobSpec, annotator: Annotator) -> Iterator[BatchResult]:
    """Yields results in source order, with a bounded number of batches in progress."""
    config = spec.config
    pool = _shared_pool(spec.threads)
    earlier = EarlierRows(config.output, planned.earlier)
    skip = skipped_positions(planned)
    under_way: deque[Future[BatchResult]] = deque()
    base = 0
    try:
        for batch in open_source(config.input).read(planned.unit):
            for part in _parts(batch, config.batch.max_images):
                mine = frozenset(at for at in range(len(part)) if skip and base + at in skip)
                base += len(part)
                under_way.append(
                    pool.submit(annotate_batch, part, mine, config, annotator, earlier)
                )
                while len(under_way) > spec.threads:
                    yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


def _parts(batch: MemberBatch, size: int) -> Iterator[MemberBatch]:
    """Divides a source's batch into model calls; the first part has all the rejects."""
    for begin in range(0, max(len(batch), 1), size):
        end = begin + size
        yield MemberBatch(
            batch.source,
            batch.names[begin:end],
            batch.data[begin:end],
            batch.labels[begin:end],
            batch.splits[begin:end],
            batch.identity[begin:end] if batch.identity is not None else None,
            batch.rejects if begin == 0 else [],
            batch.ignored if begin == 0 else NamedCounts(),
            batch.renamed if begin == 0 else {},
            names_are_paths=batch.names_are_paths,
        )


def _add(record: ledger.UnitRecord, result: BatchResult) -> None:
    record.add_counts(result.counts)
    ignored = NamedCounts.from_json(record.ignored_by_reason)
    ignored.update(result.ignored)
    record.ignored_by_reason = ignored.to_json()
    record.renamed |= result.renamed
    record.reused += result.reused
    reasons = Counter(f"{reject.stage}/{reject.reason}" for reject in result.rejects)
    record.reasons = dict(Counter(record.reasons) + reasons)
    record.labels = dict(Counter(record.labels) + result.values_of("label"))
    record.verdicts = dict(Counter(record.verdicts) + result.values_of("verdict"))


def _key(reject: Reject, image_format: str) -> str:
    """Returns the key that the member would have as a row."""
    if image_format == "manifest" and reject.member:
        return reject.member
    return f"{reject.source}/{reject.member}"


def _write_rest(
    record: ledger.UnitRecord,
    output: str,
    rejects: list[tuple[str, ...]],
    copies: list[tuple[str, str]],
) -> None:
    """Writes the unit's rejects and duplicates to their tables, if there are any."""
    tables: list[tuple[str, pa.Schema, list[Any]]] = []
    if rejects:
        tables.append((ledger.REJECTS, REJECT_SCHEMA, list(zip(*rejects, strict=True))))
    if copies:
        tables.append((ledger.DUPLICATES, DUPLICATE_SCHEMA, list(zip(*copies, strict=True))))
    for part, schema, columns in tables:
        path = posixpath.join(part, f"{record.name}.parquet")
        with files.writing(posixpath.join(output, path)) as file:
            sink = ParquetSink(file, schema)
            sink.write(pa.record_batch([texts(column) for column in columns], schema))
            sink.close()
            record.files[path] = file.tell()
