"""One work unit from archive to shard: read, check, decode, annotate, write.

Beam's workers call `annotate_unit`; the caller's thread reads and writes while the process's
threads each take a batch from its bytes to its rows, so that decoding runs beside the model.
"""

import posixpath
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.bulk_inference import decoding, ledger, storage
from components.bulk_inference.config import BulkConfig
from components.bulk_inference.handler import Annotator, Outputs, shared_annotator
from components.bulk_inference.model_card import ModelCard
from components.bulk_inference.planning import PlannedUnit
from components.bulk_inference.progress import TALLY
from components.bulk_inference.schema import REJECT_SCHEMA, Annotated, rows, table_schema
from components.bulk_inference.sinks import SINKS, SUFFIXES
from components.image_checks import ImageFaultError, ImageHeader
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.errors import InputError
from components.image_sources.sources import open_source
from serving import names


@dataclass(frozen=True)
class JobSpec:
    """What a worker has to know; small, and pickled to it. It names the model, it holds none.

    Attributes:
        config: The job.
        card: The model's facts.
        workers: Cores of one worker process.
    """

    config: BulkConfig
    card: ModelCard
    workers: int

    @property
    def threads(self) -> int:
        """Threads that take batches: one more than cores, because a thread sometimes waits."""
        return self.workers + 1


@dataclass
class BatchResult:
    """What one batch came to.

    Attributes:
        annotated: The good members, in source order.
        rejects: The others.
        members: All of them.
        ignored: Entries that are no members.
    """

    annotated: list[Annotated] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    members: int = 0
    ignored: int = 0


_POOLS: Final[dict[int, ThreadPoolExecutor]] = {}
_POOL_LOCK: Final = threading.Lock()


def _shared_pool(threads: int) -> ThreadPoolExecutor:
    with _POOL_LOCK:
        if threads not in _POOLS:
            cv2.setNumThreads(0)  # an image is decoded on the thread that asks for it
            _POOLS[threads] = ThreadPoolExecutor(threads, thread_name_prefix="annotate")
        return _POOLS[threads]


def annotate_unit(planned: PlannedUnit, spec: JobSpec) -> ledger.UnitRecord:
    """Does one unit; doing it twice gives the same files.

    Args:
        planned: The unit.
        spec: The job.

    Returns:
        The unit's record, stored. Where the archive as a whole turns out unreadable, its message
        is stored instead, and the job fails with it.
    """
    begin = time.perf_counter()
    config, card = spec.config, spec.card
    annotator = shared_annotator(card, workers=spec.workers, max_images=config.batch.max_images)
    record = ledger.UnitRecord(planned.name, planned.unit.source)
    shard = shard_path(planned.name, config)
    rejects: list[Reject] = []
    schema = table_schema(config.columns, card)
    try:
        with ExitStack() as stack:
            file = stack.enter_context(storage.writing(posixpath.join(config.output, shard)))
            sink = SINKS[config.format](file, schema)
            for result in _results(planned, spec, annotator):
                _add(record, result)
                TALLY.add(result.members, len(result.rejects))
                rejects.extend(result.rejects)
                for annotated in result.annotated:
                    sink.write(rows(annotated, schema, card))
            sink.close()
            record.files[shard] = file.tell()
    except InputError as error:
        ledger.write_error(config.output, planned.name, str(error))
        return record
    if rejects:
        path = posixpath.join(ledger.REJECTS, f"{planned.name}.parquet")
        record.files[path] = _write_rejects(posixpath.join(config.output, path), rejects)
    record.batch_limit = annotator.batch_limit
    record.seconds = time.perf_counter() - begin
    ledger.write_record(config.output, record)
    return record


def shard_path(name: str, config: BulkConfig) -> str:
    """Where the rows of a unit are, relative to the output."""
    archive, part = name.split("/")
    folder = f"archive={archive}" if config.partition_by == "archive" else ""
    stem = f"part-{part}" if config.partition_by == "archive" else f"part-{archive}-{part}"
    return posixpath.join(ledger.TABLE, folder, stem + SUFFIXES[config.format])


def _results(planned: PlannedUnit, spec: JobSpec, annotator: Annotator) -> Iterator[BatchResult]:
    """Yields results in source order, with a bounded number of batches under way."""
    config = spec.config
    if config.input is None:
        return
    pool = _shared_pool(spec.threads)
    under_way: deque[Future[BatchResult]] = deque()
    try:
        for batch in open_source(config.input).read(planned.unit):
            for part in _parts(batch, config.batch.max_images):
                under_way.append(pool.submit(annotate_batch, part, config, annotator))
                while len(under_way) > spec.threads:
                    yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


def _parts(batch: MemberBatch, size: int) -> Iterator[MemberBatch]:
    """Cuts a source's batch to the size of a model call; rejects go with the first part."""
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
            batch.ignored if begin == 0 else 0,
        )


def annotate_batch(batch: MemberBatch, config: BulkConfig, annotator: Annotator) -> BatchResult:
    """Takes one batch from bytes to outputs; runs on a thread of the pool.

    Args:
        batch: From a source.
        config: The job.
        annotator: The model.
    """
    result = BatchResult(
        rejects=list(batch.rejects),
        members=len(batch) + len(batch.rejects),
        ignored=batch.ignored,
    )
    if config.input is None or not len(batch):
        return result
    checked = decoding.check_batch(batch, config.input.limits)
    result.rejects.extend(checked.rejects)
    for begin, end in decoding.chunks(checked.headers, config.batch):
        places = checked.places[begin:end]
        headers = checked.headers[begin:end]
        files = [batch.data[place] for place in places]
        outputs, faults = _outputs(files, headers, annotator)
        for at, fault in sorted(faults.items()):
            result.rejects.append(decoding.reject_of(batch, places[at], fault))
        kept = [at for at in range(len(places)) if at not in faults]
        if kept:
            result.annotated.append(_columns(checked, places, headers, kept, outputs))
    return result


def _outputs(
    files: list[bytes], headers: list[ImageHeader], annotator: Annotator
) -> tuple[Outputs, dict[int, ImageFaultError]]:
    """Runs the model; outputs [n, ...] in the files' order, and faults by position."""
    by_graph = [
        at for at, header in enumerate(headers)
        if header.format == "jpeg" and not header.convert
    ]  # fmt: skip
    if by_graph and annotator.agrees("JPEG", decoding.probe_jpeg):
        by_graph = []
    by_opencv = sorted(set(range(len(files))) - set(by_graph))
    faults: dict[int, ImageFaultError] = {}
    pieces: list[tuple[list[int], Outputs]] = []

    def keep(places: list[int], answer: tuple[Outputs, dict[int, str]]) -> None:
        outputs, failed = answer
        for at, message in failed.items():
            faults[places[at]] = ImageFaultError("model", "model_failed", message)
        if outputs:
            pieces.append((places, outputs))

    if by_graph:
        keep(by_graph, annotator.annotate_bytes([files[at] for at in by_graph]))
    if by_opencv:
        groups, bad = decoding.decode_into_groups(
            [files[at] for at in by_opencv], [headers[at] for at in by_opencv]
        )
        faults.update({by_opencv[at]: fault for at, fault in bad.items()})
        for places, pixels in _batches(groups, annotator):
            keep([by_opencv[at] for at in places], annotator.annotate_pixels(pixels))
    return _in_order(pieces, len(files)), faults


def _batches(
    groups: dict[tuple[int, ...], tuple[list[int], list[np.ndarray]]], annotator: Annotator
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Makes model calls of decoded groups: one for all sizes where the resize can be ours."""
    shape = annotator.card.image_shape
    if set(groups) <= {shape} or not annotator.agrees("the resize", decoding.probe_png):
        for places, images in groups.values():
            yield places, np.stack(images)
        return
    order: list[int] = []
    fitted: list[np.ndarray] = []
    for size, (places, images) in groups.items():
        pixels = np.stack(images)
        order.extend(places)
        fitted.append(pixels if size == shape else annotator.fit(pixels))
    yield order, np.concatenate(fitted)


def _in_order(pieces: list[tuple[list[int], Outputs]], count: int) -> Outputs:
    if not pieces:
        return {}
    if len(pieces) == 1 and pieces[0][0] == list(range(count)):
        return pieces[0][1]
    merged: Outputs = {}
    for name, sample in pieces[0][1].items():
        merged[name] = np.zeros((count, *sample.shape[1:]), sample.dtype)
        for places, outputs in pieces:
            merged[name][places] = outputs[name]
    return merged


def _columns(
    checked: decoding.Checked,
    places: list[int],
    headers: list[ImageHeader],
    kept: list[int],
    outputs: Outputs,
) -> Annotated:
    batch = checked.batch
    chosen = [places[at] for at in kept]
    sizes = np.array([decoding.upright_size(headers[at]) for at in kept], np.int32)
    whole = len(kept) == len(places)
    return Annotated(
        source=batch.source,
        members=[batch.names[place] for place in chosen],
        sha256=[checked.sha256[place] for place in chosen],
        formats=[headers[at].format for at in kept],
        widths=sizes[:, 0],
        heights=sizes[:, 1],
        given=[batch.labels[place] for place in chosen],
        outputs=outputs if whole else {name: value[kept] for name, value in outputs.items()},
    )


def _add(record: ledger.UnitRecord, result: BatchResult) -> None:
    record.members += result.members
    record.ignored += result.ignored
    record.rejects += len(result.rejects)
    reasons = Counter(f"{reject.stage}/{reject.reason}" for reject in result.rejects)
    record.reasons = dict(Counter(record.reasons) + reasons)
    for annotated in result.annotated:
        record.rows += len(annotated)
        indices, counts = np.unique(annotated.outputs[names.LABEL_INDEX], return_counts=True)
        for index, count in zip(indices.tolist(), counts.tolist(), strict=True):
            record.labels[str(index)] = record.labels.get(str(index), 0) + count
        verdicts = Counter(annotated.outputs[names.VERDICT].tolist())
        for verdict, count in verdicts.items():
            name = verdict.decode()
            record.verdicts[name] = record.verdicts.get(name, 0) + count


def _write_rejects(path: str, rejects: list[Reject]) -> int:
    columns = {
        "key": [f"{reject.source}/{reject.member}" for reject in rejects],
        **{name: [getattr(reject, name) for reject in rejects] for name in REJECT_SCHEMA.names[1:]},
    }
    with storage.writing(path) as file:
        pq.write_table(pa.table(columns, REJECT_SCHEMA), file, compression="zstd")
        return file.tell()
