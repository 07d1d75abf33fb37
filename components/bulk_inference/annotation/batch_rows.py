"""Turns one batch of image bytes into rows: hashes, checks, decodes, calls the model, counts.

`unit.py` runs `annotate_batch` on the worker's threads.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.bulk_inference.annotation import decoding
from components.bulk_inference.annotation.handler import Annotator, Outputs
from components.bulk_inference.annotation.schema import Annotated, rows, table_schema
from components.bulk_inference.config import BulkJob
from components.bulk_inference.drift.drift_sums import DriftSums
from components.bulk_inference.output.counts import Counts
from components.bulk_inference.planning.reuse import EarlierRows
from components.image_checks import ImageFaultError, ImageHeader
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.named_counts import NamedCounts


@dataclass
class BatchResult:
    """Holds the result of one batch.

    Attributes:
        members: Number of entries read.
        ignored: Entries that are no images by their names.
        renamed: Class names that could not be kept, see `MemberBatch.renamed`.
        rows: The annotated members in source order; None if there are none.
        rejects: The unusable members.
        duplicates: Key and SHA-256 of the copies that were skipped.
        reused: Number of rows reused from an earlier version of the archive.
        drift: Sums for the drift report.
    """

    members: int = 0
    ignored: NamedCounts = field(default_factory=NamedCounts)
    renamed: dict[str, str] = field(default_factory=dict)
    rows: pa.RecordBatch | None = None
    rejects: list[Reject] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    reused: int = 0
    drift: DriftSums | None = None

    @property
    def counts(self) -> Counts:
        """Returns what became of the members."""
        return Counts(
            members=self.members,
            rows=self.rows.num_rows if self.rows is not None else 0,
            rejects=len(self.rejects),
            duplicates=len(self.duplicates),
            ignored=self.ignored.total(),
        )

    def values_of(self, column: str) -> Counter[str]:
        """Counts rows by the values of a column; empty if the table has no such column."""
        if self.rows is None or column not in self.rows.schema.names:
            return Counter()
        values = self.rows.column(self.rows.schema.get_field_index(column))
        found = pc.value_counts(values.dictionary_decode()).to_pylist()
        return Counter({entry["values"]: entry["counts"] for entry in found})


def annotate_batch(
    batch: MemberBatch,
    skip: frozenset[int],
    config: BulkJob,
    annotator: Annotator,
    earlier: EarlierRows,
) -> BatchResult:
    """Annotates one batch, reusing earlier rows where possible.

    Args:
        batch: A batch of a source.
        skip: Positions in the batch of copies to skip.
        config: The job.
        annotator: The model.
        earlier: Rows of an earlier version of the archive.
    """
    result = BatchResult(
        members=batch.members,
        ignored=batch.ignored,
        renamed=batch.renamed,
        rejects=list(batch.rejects),
    )
    if not len(batch):
        return result
    drift = result.drift = DriftSums(annotator.card)
    sha256 = decoding.digests(batch)
    for place in sorted(skip):
        result.duplicates.append((batch.keys[place], sha256[place]))
    known = earlier.find(batch, sha256, skip)
    checked = decoding.check_batch(batch, skip | known.keys(), config.input.limits)
    result.rejects.extend(checked.rejects)
    schema = table_schema(config.columns, annotator.card)
    parts: list[pa.RecordBatch] = []
    order: list[int] = []
    here = [annotator.decodes_here(header) for header in checked.headers]
    areas = _areas(checked.headers, here, annotator.card.image_shape)
    for begin, end in decoding.chunks(areas, config.batch):
        places = checked.places[begin:end]
        headers = checked.headers[begin:end]
        outputs, faults = _outputs(
            [batch.data[place] for place in places], headers, here[begin:end], annotator, drift
        )
        for at, fault in sorted(faults.items()):
            result.rejects.append(decoding.reject_of(batch, places[at], fault))
        kept = [at for at in range(len(places)) if at not in faults]
        if kept:
            columns = _columns(batch, sha256, places, headers, kept, outputs)
            drift.add_answers(columns.outputs)
            drift.add_files(columns.formats, columns.widths, columns.heights)
            parts.append(rows(columns, schema, annotator.card))
            order.extend(places[at] for at in kept)
    if known:
        parts.append(earlier.take(batch, known, schema))
        order.extend(known)
        result.reused = len(known)
    result.rows = _sorted(parts, order)
    return result


def _sorted(parts: list[pa.RecordBatch], order: list[int]) -> pa.RecordBatch | None:
    """Concatenates rows and sorts them into source order."""
    if len(parts) <= 1:
        return parts[0] if parts else None
    table = pa.Table.from_batches(parts).unify_dictionaries().combine_chunks()
    if order != sorted(order):
        table = table.take(pa.array(np.argsort(order, kind="stable"))).combine_chunks()
    return table.to_batches()[0]


def _areas(headers: list[ImageHeader], here: list[bool], shape: tuple[int, int, int]) -> list[int]:
    """Returns the pixels of each image in a model call: of the model's size if decoded here."""
    fitted = shape[0] * shape[1]
    return [
        fitted if is_here else header.height * header.width
        for header, is_here in zip(headers, here, strict=True)
    ]


def _outputs(
    files: list[bytes],
    headers: list[ImageHeader],
    is_here: list[bool],
    annotator: Annotator,
    drift: DriftSums,
) -> tuple[Outputs, dict[int, ImageFaultError]]:
    """Runs the model; returns outputs [n, ...] in file order, and faults by position.

    Args:
        files: The image files.
        headers: Their headers.
        is_here: Which of them are decoded here, and not by the model's graph.
        annotator: The model.
        drift: Receives the pixels of images that are decoded here.
    """
    faults: dict[int, ImageFaultError] = {}
    pieces: list[tuple[list[int], Outputs]] = []

    def keep(places: list[int], answer: tuple[Outputs, dict[int, str]]) -> None:
        outputs, failed = answer
        for at, message in failed.items():
            faults[places[at]] = ImageFaultError("model", "model_failed", message)
        if outputs:
            pieces.append((places, outputs))

    by_graph = [at for at, ours in enumerate(is_here) if not ours]
    here = [at for at, ours in enumerate(is_here) if ours]
    if by_graph:
        accepted, bad = decoding.for_signatures(
            [files[at] for at in by_graph], [headers[at] for at in by_graph]
        )
        faults.update({by_graph[at]: fault for at, fault in bad.items()})
        if accepted:
            places = [by_graph[at] for at in accepted]
            keep(places, annotator.annotate_bytes(list(accepted.values())))
    if here:
        kept, pixels, bad = decoding.decode_all(
            [files[at] for at in here], [headers[at] for at in here], annotator.card.image_config
        )
        faults.update({here[at]: fault for at, fault in bad.items()})
        if kept:
            drift.add_pixels(pixels)
            keep([here[at] for at in kept], annotator.annotate_pixels(pixels))
    return _in_order(pieces, len(files)), faults


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
    batch: MemberBatch,
    sha256: list[str],
    places: list[int],
    headers: list[ImageHeader],
    kept: list[int],
    outputs: Outputs,
) -> Annotated:
    chosen = [places[at] for at in kept]
    keys = batch.keys
    heights, widths = np.array([headers[at].upright_size for at in kept], np.int32).T
    whole = len(kept) == len(places)
    return Annotated(
        source=batch.source,
        keys=[keys[place] for place in chosen],
        members=[batch.names[place] for place in chosen],
        sha256=[sha256[place] for place in chosen],
        formats=[headers[at].format for at in kept],
        widths=widths,
        heights=heights,
        given=[batch.labels[place] for place in chosen],
        outputs=outputs if whole else {name: value[kept] for name, value in outputs.items()},
    )
