"""Annotates one work unit and writes its rows as a shard of the table.

Beam's workers call `annotate_unit`. The calling thread reads and writes, while each of the
process's threads turns a batch of bytes into rows, so that decoding and the model overlap.
"""

import posixpath
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from components.bulk_inference.annotation.batch_rows import BatchResult, annotate_batch
from components.bulk_inference.annotation.handler import shared_annotator
from components.bulk_inference.annotation.schema import (
    DUPLICATE_SCHEMA,
    FINDINGS_COLUMN,
    table_schema,
)
from components.bulk_inference.config import BulkJob
from components.bulk_inference.drift.drift_sums import DriftSums
from components.bulk_inference.output.ledger import (
    DUPLICATES,
    NEAR,
    REJECTS,
    UNKNOWN_LABEL,
    Ledger,
    UnitRecord,
    shard_path,
)
from components.bulk_inference.output.near_table import COMPARED
from components.bulk_inference.planning.exact_copies import skipped_positions
from components.bulk_inference.planning.reuse import EarlierRows
from components.bulk_inference.planning.work_units import PlannedUnit
from components.bulk_inference.running.counters import UnitCounts
from components.bulk_inference.running.progress import TALLY
from components.image_sources.batch import Reject
from components.image_sources.named_counts import NamedCounts
from components.image_sources.origins import PATH_FORMATS
from components.image_sources.sources import ImageSource
from components.sinks import REJECT_SCHEMA, SINKS, ParquetSink, Sink, parquet_table
from components.unit_engine import work_through
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


def annotate_unit(
    planned: PlannedUnit,
    spec: JobSpec,
    counts: UnitCounts | None = None,
    source: ImageSource | None = None,
) -> UnitRecord:
    """Processes one unit idempotently: a second run writes the same files.

    Args:
        planned: The unit.
        spec: The job.
        counts: Receives the counts of every batch.
        source: What reads the unit; None for the source of the job's input.

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
    record = UnitRecord(planned.name, planned.unit.source)
    ledger = Ledger(config.output)
    rejects: list[Reject] = []
    copies: list[tuple[str, str]] = []
    compared: list[tuple[str, str, bytes, bytes]] = []
    drift = DriftSums(card)
    try:
        with _open_sinks(record, ledger, config, table_schema(config.columns, card)) as sinks:
            annotated = work_through(
                source or ImageSource(config.input),
                planned.unit,
                partial(
                    annotate_batch,
                    skip=skipped_positions(planned),
                    config=config,
                    annotator=annotator,
                    earlier=EarlierRows(config.output, planned.earlier),
                ),
                threads=spec.threads,
                most=config.batch.max_images,
            )
            for result in annotated:
                _add(record, result)
                if planned.unit.format not in PATH_FORMATS:
                    _add_unknown(record, result, card.classes)
                TALLY.add(result.counts)
                if counts is not None:
                    counts.add(result.counts)
                rejects.extend(result.rejects)
                copies.extend(result.duplicates)
                compared.extend(result.compared)
                drift.merge(result.drift)
                if result.rows is not None:
                    for sink in sinks:
                        sink.write(result.rows)
    except OutputError:
        raise
    except InputError as error:
        ledger.write_error(planned.name, str(error))
        return record
    tables = ((REJECTS, REJECT_SCHEMA, rejects), (DUPLICATES, DUPLICATE_SCHEMA, copies))
    _write_rest(record, ledger, (*tables, (NEAR, COMPARED, compared)))
    record.drift = drift.as_dict()
    record.batch_limit = annotator.batch_limit
    record.seconds = time.perf_counter() - begin
    ledger.write_record(record)
    return record


@contextmanager
def _open_sinks(
    record: UnitRecord, ledger: Ledger, config: BulkJob, schema: pa.Schema
) -> Iterator[list[Sink]]:
    """Opens what the rows are written to: the shard, and the index of an array.

    The files appear when the block ends well, and the record then has their sizes.
    """
    shard = shard_path(record.name, config)
    with ExitStack() as stack:
        opened = {shard: stack.enter_context(files.writing(ledger.path(shard)))}
        sinks = [SINKS[config.format](opened[shard], schema)]
        if config.format == "npy":
            # An array has no columns; the index holds the keys and all other columns.
            index = f"{shard.removesuffix('.npy')}.index.parquet"
            opened[index] = stack.enter_context(files.writing(ledger.path(index)))
            columns = [field for field in schema if field.name != "embedding"]
            sinks.append(ParquetSink(opened[index], pa.schema(columns)))
        yield sinks
        for sink in sinks:
            sink.close()
        record.files.update({name: file.tell() for name, file in opened.items()})


def _add(record: UnitRecord, result: BatchResult) -> None:
    record.add_counts(result.counts)
    ignored = NamedCounts.from_json(record.ignored_by_reason)
    ignored.update(result.ignored)
    record.ignored_by_reason = ignored.to_json()
    record.renamed |= result.renamed
    if result.repeated.total():
        repeated = NamedCounts.from_json(record.repeated)
        repeated.update(result.repeated)
        record.repeated = repeated.to_json()
    record.reused += result.reused
    reasons = Counter(f"{reject.stage}/{reject.reason}" for reject in result.rejects)
    record.reasons = dict(Counter(record.reasons) + reasons)
    record.labels = dict(Counter(record.labels) + result.values_of("label"))
    record.findings = dict(Counter(record.findings) + result.values_of(FINDINGS_COLUMN))
    record.with_findings += result.with_findings
    record.verdicts = dict(Counter(record.verdicts) + result.values_of("verdict"))


def _add_unknown(record: UnitRecord, result: BatchResult, classes: Container[str]) -> None:
    """Counts given labels that are numbers and no class; other labels may be of another task."""
    found = {
        label: count
        for label, count in result.values_of("given_label").items()
        if label is not None and label.isdigit() and label not in classes
    }
    if found:
        unknown = NamedCounts.from_json(record.unknown)
        for label, count in found.items():
            unknown.add(UNKNOWN_LABEL, label, count)
        record.unknown = unknown.to_json()


def _write_rest(
    record: UnitRecord,
    ledger: Ledger,
    tables: Sequence[tuple[str, pa.Schema, Sequence[tuple[object, ...]]]],
) -> None:
    """Writes the unit's rejects, duplicates and the like to their tables, if there are any."""
    for folder, schema, rows in tables:
        if rows:
            path = posixpath.join(folder, f"{record.name}.parquet")
            content = parquet_table(rows, schema)
            ledger.write(path, content)
            record.files[path] = len(content)
