"""Turns one batch of image bytes into rows: hashes, checks, decodes, calls the model, counts.

`unit.py` runs `annotate_batch` on the worker's threads.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.bulk_inference.annotation.decoding import ModelCall, model_calls
from components.bulk_inference.annotation.handler import Annotator, Outputs
from components.bulk_inference.annotation.schema import (
    FINDINGS_COLUMN,
    Annotated,
    known_outputs,
    rows,
    table_schema,
)
from components.bulk_inference.config import BulkJob
from components.bulk_inference.drift.drift_sums import PIXEL_IMAGES, DriftSums, evenly
from components.bulk_inference.output.counts import Counts
from components.bulk_inference.output.near_table import compared_rows
from components.bulk_inference.planning.reuse import EarlierRows
from components.image_checks import ImageFaultError, ImageHeader, model_pixels, to_signature
from components.image_findings.finding_rules import bounds_in_use, judge_images
from components.image_findings.image_measures import measure_images
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.config import FINDINGS
from components.image_sources.named_counts import NamedCounts
from components.image_sources.repeated_names import repeated_only
from components.near_duplicates.perceptual_hash import thumbnails
from components.unit_engine import CheckedBatch, check_batch

ResultT = TypeVar("ResultT")


@dataclass
class BatchResult:
    """Holds the result of one batch.

    Attributes:
        members: Number of entries read.
        ignored: Entries that are no images by their names.
        renamed: Class names that could not be kept, see `MemberBatch.renamed`.
        repeated: Images with the name of an earlier one of their archive.
        rows: The annotated members in source order; None if there are none.
        rejects: The unusable members.
        duplicates: Key and SHA-256 of the copies that were skipped.
        reused: Number of rows reused from an earlier version of the archive.
        drift: Sums for the drift report.
        compared: A row of `near_table.COMPARED` for each image that is compared with others.
    """

    members: int
    ignored: NamedCounts
    renamed: dict[str, str]
    repeated: NamedCounts
    rows: pa.RecordBatch | None
    rejects: list[Reject]
    duplicates: list[tuple[str, str]]
    reused: int
    drift: DriftSums
    compared: list[tuple[str, str, bytes, bytes]]

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

    @property
    def with_findings(self) -> int:
        """Returns the number of rows with any finding."""
        if self.rows is None or FINDINGS_COLUMN not in self.rows.schema.names:
            return 0
        column = self.rows.column(self.rows.schema.get_field_index(FINDINGS_COLUMN))
        return int(np.count_nonzero(pc.list_value_length(column)))

    def values_of(self, column: str) -> Counter[str]:
        """Counts rows by the values of a column; empty if the table has no such column."""
        if self.rows is None or column not in self.rows.schema.names:
            return Counter()
        values = self.rows.column(self.rows.schema.get_field_index(column))
        values = values.flatten() if pa.types.is_list(values.type) else values
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
        skip: Positions in the unit of copies to skip.
        config: The job.
        annotator: The model.
        earlier: Rows of an earlier version of the archive.
    """
    copies = frozenset(at for at in range(len(batch)) if batch.start + at in skip)
    keys, digests = batch.keys, batch.digests()
    known = earlier.find(batch, digests, copies)
    checked = check_batch(batch, config.input.limits, copies | known.keys())
    drift = DriftSums(annotator.card)
    schema = table_schema(config.columns, annotator.card)
    parts: list[pa.RecordBatch] = []
    order: list[int] = []
    thumbs: dict[int, np.ndarray] = {}
    calls = model_calls(
        checked.headers, annotator.decodes_here, annotator.card.image_config, config.batch
    )
    for call in calls:
        kept, outputs, pixels = _outputs(call, checked, annotator, drift)
        if kept:
            findings, compared = _look_at(checked, kept, pixels, config, annotator)
            thumbs |= compared
            columns = _columns(checked, kept, keys, digests, outputs, findings)
            drift.add_answers(columns.outputs)
            drift.add_files(columns.formats, columns.widths, columns.heights)
            parts.append(rows(columns, schema, annotator.card))
            order.extend(checked.places[at] for at in kept)
    if known:
        kept_rows = earlier.take(batch, known, schema)
        _add_kept(drift, kept_rows, batch, known.keys(), config, annotator)
        parts.append(kept_rows)
        order.extend(known)
    return BatchResult(
        members=batch.members,
        ignored=batch.ignored,
        renamed=batch.renamed,
        repeated=repeated_only(batch.origins),
        rows=_sorted(parts, order),
        rejects=checked.rejects,
        duplicates=[(keys[at], digests[at].hex()) for at in sorted(copies)],
        reused=len(known),
        drift=drift,
        compared=compared_rows(thumbs, keys, digests),
    )


def _add_kept(
    drift: DriftSums,
    kept: pa.RecordBatch,
    batch: MemberBatch,
    places: Collection[int],
    config: BulkJob,
    annotator: Annotator,
) -> None:
    """Adds rows of an earlier version: their answers, and their files, of which some are decoded.

    Args:
        drift: Receives them.
        kept: The rows.
        batch: The batch that they are of.
        places: Their positions in the batch.
        config: The job.
        annotator: The model.
    """
    drift.add_answers(known_outputs(kept, annotator.card))
    others = frozenset(range(len(batch))).difference(places)
    checked = check_batch(batch, config.input.limits, others)
    if checked.headers:
        heights, widths = _upright_sizes(checked.headers)
        drift.add_files([header.format for header in checked.headers], widths, heights)
        some = evenly(list(range(len(checked.headers))), PIXEL_IMAGES)
        drift.add_pixels(_shown(checked, some, None, annotator)[1])


def _upright_sizes(headers: Sequence[ImageHeader]) -> np.ndarray:
    """Returns heights and widths, int32 [2, n]."""
    return np.array([header.upright_size for header in headers], np.int32).T


def _look_at(
    checked: CheckedBatch,
    kept: list[int],
    pixels: np.ndarray | None,
    config: BulkJob,
    annotator: Annotator,
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Judges images by their pixels, and makes what is compared with others, as configured.

    Returns:
        Findings, bool [len(kept), len(FINDINGS)], and by position in the batch the thumbnails.
    """
    findings = np.zeros((len(kept), len(FINDINGS)), bool)
    thumbs: dict[int, np.ndarray] = {}
    is_judged = FINDINGS_COLUMN in config.columns
    if not (is_judged or config.near_duplicates):
        return findings, thumbs
    shown, pixels = _shown(checked, kept, pixels, annotator)
    if config.near_duplicates:
        places = [checked.places[kept[at]] for at in shown]
        thumbs = dict(zip(places, thumbnails(pixels), strict=True))
    if is_judged:
        bounds = bounds_in_use(annotator.card.findings, config.input.findings)
        headers = [checked.headers[kept[at]] for at in shown]
        findings[shown] = judge_images(measure_images(pixels, headers), bounds)
    return findings, thumbs


def _shown(
    checked: CheckedBatch, kept: list[int], pixels: np.ndarray | None, annotator: Annotator
) -> tuple[list[int], np.ndarray]:
    """Returns positions in `kept` of the images that can be looked at, and their pixels."""
    if pixels is not None:
        return list(range(len(kept))), pixels
    image, found = annotator.card.image_config, {}
    for at, place in enumerate(kept):
        # What only the model's graph can decode is left out.
        with suppress(ImageFaultError):
            data = checked.batch.data[checked.places[place]]
            found[at] = model_pixels(data, checked.headers[place], image)
    return list(found), np.array(list(found.values()), np.uint8).reshape(-1, *image.shape)


def _sorted(parts: list[pa.RecordBatch], order: list[int]) -> pa.RecordBatch | None:
    """Concatenates rows and sorts them into source order."""
    if len(parts) <= 1:
        return parts[0] if parts else None
    table = pa.Table.from_batches(parts).unify_dictionaries().combine_chunks()
    if order != sorted(order):
        table = table.take(pa.array(np.argsort(order, kind="stable"))).combine_chunks()
    return table.to_batches()[0]


def _outputs(
    call: ModelCall, checked: CheckedBatch, annotator: Annotator, drift: DriftSums
) -> tuple[list[int], Outputs, np.ndarray | None]:
    """Decodes images and runs the model on them.

    Args:
        call: The images.
        checked: The batch, which receives the rejects.
        annotator: The model.
        drift: Receives the pixels of images that are decoded here.

    Returns:
        The positions of the images that have an answer, the outputs [n, ...] of these, and
        their pixels, uint8 [n, height, width, channels], if they were decoded here.
    """
    image = annotator.card.image_config
    kept: list[int] = []
    pixels: np.ndarray | None = None
    if call.is_decoded_here:
        pixels = np.empty((len(call.at), *image.shape), np.uint8)
        for at, decoded in _each(
            call, checked, lambda data, header: model_pixels(data, header, image)
        ):
            pixels[len(kept)] = decoded
            kept.append(at)
        pixels = pixels[: len(kept)]
        drift.add_pixels(pixels)
        outputs, failed = annotator.annotate_pixels(pixels)
    else:
        files = dict(_each(call, checked, to_signature))
        kept = list(files)
        outputs, failed = annotator.annotate_bytes(list(files.values()))
    for place, message in failed.items():
        fault = ImageFaultError("model", "model_failed", message)
        checked.refuse(checked.places[kept[place]], fault)
    if not failed:
        return kept, outputs, pixels
    answered = [place for place in range(len(kept)) if place not in failed]
    chosen = {name: value[answered] for name, value in outputs.items()}
    pixels = None if pixels is None else pixels[answered]
    return [kept[place] for place in answered], chosen, pixels


def _each(
    call: ModelCall, checked: CheckedBatch, convert: Callable[[bytes, ImageHeader], ResultT]
) -> Iterator[tuple[int, ResultT]]:
    """Yields position and conversion of each image of a call; refuses those with a fault."""
    for at in call.at:
        place = checked.places[at]
        try:
            yield at, convert(checked.batch.data[place], checked.headers[at])
        except ImageFaultError as fault:
            checked.refuse(place, fault)


def _columns(
    checked: CheckedBatch,
    kept: list[int],
    keys: list[str],
    digests: list[bytes],
    outputs: Outputs,
    findings: np.ndarray,
) -> Annotated:
    batch = checked.batch
    places = [checked.places[at] for at in kept]
    headers = [checked.headers[at] for at in kept]
    heights, widths = _upright_sizes(headers)
    return Annotated(
        source=batch.source,
        keys=[keys[place] for place in places],
        members=[batch.names[place] for place in places],
        sha256=[digests[place].hex() for place in places],
        formats=[header.format for header in headers],
        widths=widths,
        heights=heights,
        given=[batch.labels[place] for place in places],
        outputs=outputs,
        findings=findings,
    )
