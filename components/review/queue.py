"""Selects the images of a bulk job's table that people should check, and writes them as a CSV.

`vaeline review create` calls it. The table is read twice, shard by shard: once to count
confidences, once to fetch the rows to review.
"""

import heapq
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.review.labelled_archive import LabelledArchive
from components.review.promise import Promise, make_promise
from components.review.queue_file import (
    AUDIT,
    UNCERTAIN,
    VERDICT,
    QueueFacts,
    QueueRow,
    require_replaceable,
    write_queue,
)
from trainer.errors import InputError
from trainer.quality.confidence_grid import CELLS, confidence_cells

_REJECT: Final = "reject"
"""The verdict of images that are unlike all training images, whose labels mean nothing."""
_COLUMNS: Final = (
    "key", "source", "member", "label", "probability", "outlier_score", "verdict", "given_label",
)  # fmt: skip
_SEED: Final = 20261129


def create_queue(
    output: str,
    *,
    risk: float,
    confidence: float = 0.95,
    most: int = 10_000,
    audit: int = 0,
    overwrite: bool = False,
) -> tuple[QueueFacts, list[QueueRow]]:
    """Writes `review/queue.csv` and `review/queue.json` next to a table.

    Images with the verdict `reject` are always under review. Of the others it is those with the
    least probable labels.

    Args:
        output: The folder of a finished bulk job.
        risk: Largest share of wrong labels among those that nobody reviews.
        confidence: Least probability that this share is kept.
        most: Largest number of images to list, the least probable first.
        audit: Number of further images to draw at random from all others. Their answers bound the
            wrong labels without any assumption about the archive (`answers.apply_answers`).
        overwrite: Whether to replace a queue with answers.

    Raises:
        InputError: The table cannot be reviewed, or a queue with answers is there.
    """
    archive = LabelledArchive(output)
    require_replaceable(archive, overwrite=overwrite)
    counts, refused = _count(archive)
    reason = _why_no_promise(archive)
    promise = Promise(CELLS, 0, reason=reason)
    if not reason:
        promise = _promise(archive, counts, risk, confidence)
    rows, population = _select(archive, promise, most, audit)
    listed = {why: sum(row.why == why for row in rows) for why in (UNCERTAIN, VERDICT, AUDIT)}
    images = int(counts.sum()) + refused
    unaudited = len(rows) - listed[AUDIT]
    facts = QueueFacts(
        table_written=archive.manifest["written"],
        risk=risk,
        confidence=confidence,
        images=images,
        review=unaudited if promise.reason else images - promise.accepted,
        accepted=population,
        held_out=promise.held_out,
        wrong=promise.wrong,
        threshold=None if promise.reason else promise.threshold,
        listed=listed,
        no_promise=promise.reason,
    )
    write_queue(archive, facts, rows)
    return facts, rows


def _why_no_promise(archive: LabelledArchive) -> str:
    drift = archive.manifest["drift"]
    if drift is None:
        return "the job ran without the drift check (bulk.drift.enabled)"
    if drift["alarm"]:
        names = ", ".join(test["name"] for test in drift["tests"] if test["alarm"])
        return f"the archive differs from the training data ({names}), see drift.md"
    return str(drift["note"]).rstrip(".") if not drift["tests"] else ""


def _promise(
    archive: LabelledArchive, counts: np.ndarray, risk: float, confidence: float
) -> Promise:
    try:
        known = archive.held_out()
    except InputError as error:
        return Promise(CELLS, 0, reason=str(error))
    ordinary = np.ones(len(known), bool)
    reject = archive.card.calibration.thresholds.reject.score
    if reject is not None and "verdict" in archive.columns:
        # The same images are left out as in the archive.
        ordinary = known.outlier_score <= reject
    cells = confidence_cells(known.probability)
    return make_promise(
        counts,
        np.bincount(cells[ordinary], minlength=CELLS),
        np.bincount(cells[ordinary & known.is_wrong], minlength=CELLS),
        risk=risk,
        confidence=confidence,
    )


def _count(archive: LabelledArchive) -> tuple[np.ndarray, int]:
    """Counts images by cell of confidence, and separately those that a verdict refuses."""
    counts = np.zeros(CELLS, np.int64)
    refused = 0
    for shard in archive.shards:
        for batch in archive.rows(shard, "probability", "verdict"):
            ordinary = _is_ordinary(batch)
            refused += int((~ordinary).sum())
            counts += np.bincount(_cells(batch)[ordinary], minlength=CELLS)
    return counts, refused


def _select(
    archive: LabelledArchive, promise: Promise, most: int, audit: int
) -> tuple[list[QueueRow], int]:
    """Selects the rows to list, and counts those that nobody will review.

    Returns:
        The rows in order of doubt, with those of the audit among them at equal distances, and the
        number of rows that the audit is drawn from.
    """
    doubtful: list[tuple[float, int, QueueRow]] = []
    drawn: list[tuple[float, int, QueueRow]] = []
    number = 0
    for place, shard in enumerate(archive.shards):
        random = np.random.default_rng([_SEED, place])
        for batch in archive.rows(shard, *_COLUMNS):
            ordinary, cells = _is_ordinary(batch), _cells(batch)
            review = ~ordinary | (cells < promise.cell)
            doubt = np.where(ordinary, -cells.astype(float), np.inf)
            _keep(doubtful, most, batch, number, np.flatnonzero(review), doubt, ordinary)
            if audit:
                others = np.flatnonzero(~review | (promise.cell == CELLS))
                _keep(drawn, most + audit, batch, number, others, random.random(len(cells)), None)
            number += batch.num_rows
    queue = [row for _, _, row in sorted(doubtful, key=lambda entry: (-entry[0], -entry[1]))]
    named = {number for _, number, _ in doubtful}
    # Without a promise the audit is drawn from all rows that are not listed already.
    free = [e for e in sorted(drawn, key=lambda entry: -entry[0]) if e[1] not in named]
    audited = [row for _, _, row in free[:audit]]
    population = number - len(queue) if promise.reason else promise.accepted
    return _interleave(queue, audited), population


def _keep(
    heap: list[tuple[float, int, QueueRow]],
    most: int,
    batch: pa.RecordBatch,
    first: int,
    places: np.ndarray,
    ranks: np.ndarray,
    ordinary: np.ndarray | None,
) -> None:
    """Keeps the rows of the highest ranks in a heap of at most `most`."""
    if not most:
        return
    if len(places) > most:
        places = places[np.argsort(-ranks[places], kind="stable")[:most]]
    if len(heap) >= most:
        places = places[ranks[places] >= heap[0][0]]
    table = pa.Table.from_batches([batch]).take(pa.array(places))
    for place, values in zip(places.tolist(), table.to_pylist(), strict=True):
        why = AUDIT
        if ordinary is not None:
            why = UNCERTAIN if ordinary[place] else VERDICT
        given = {name: value for name, value in values.items() if value is not None}
        entry = (float(ranks[place]), -(first + place), QueueRow(**given, why=why))
        if len(heap) < most:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)


def _interleave(queue: list[QueueRow], audited: list[QueueRow]) -> list[QueueRow]:
    places = [*np.linspace(0, 1, len(queue)), *np.linspace(0, 1, len(audited))]
    order = np.argsort(places, kind="stable")
    rows = [*queue, *audited]
    return [rows[place] for place in order]


def _cells(batch: pa.RecordBatch) -> np.ndarray:
    column = batch.column(batch.schema.get_field_index("probability"))
    return confidence_cells(column.to_numpy(zero_copy_only=False))


def _is_ordinary(batch: pa.RecordBatch) -> np.ndarray:
    place = batch.schema.get_field_index("verdict")
    if place < 0:
        return np.ones(batch.num_rows, bool)
    verdicts = batch.column(place).cast(pa.string())
    return np.asarray(pc.not_equal(verdicts, _REJECT).fill_null(True))
