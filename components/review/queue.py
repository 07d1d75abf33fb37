"""Selects the images of a bulk job's table that people should check, and writes them as a CSV.

`vaeline review create` calls it. The table is read twice, shard by shard: once to count
confidences, once to fetch the rows to review.
"""

import csv
import heapq
import io
import json
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.bulk_inference.output.ledger import REVIEW, Ledger
from components.review.labelled_archive import LabelledArchive
from components.review.promise import (
    CELLS,
    Promise,
    confidence_cells,
    make_promise,
    percent,
)
from trainer.errors import InputError

QUEUE_FILE: Final = f"{REVIEW}/queue.csv"
FACTS_FILE: Final = f"{REVIEW}/queue.json"

UNCERTAIN: Final = "uncertain"
VERDICT: Final = "verdict"
AUDIT: Final = "audit"

_REJECT: Final = "reject"
"""The verdict of images that are unlike all training images, whose labels mean nothing."""
_COLUMNS: Final = ("key", "source", "member", "label", "probability", "outlier_score", "verdict")
_SEED: Final = 20261129


@dataclass(frozen=True)
class QueueRow:
    """An image to check.

    Attributes:
        key: Key of the table.
        source: The archive; empty if the table has no such column.
        member: The name in the archive; empty as well.
        label: The predicted label.
        probability: Its calibrated probability.
        outlier_score: The score; None if the table has none.
        verdict: The verdict; empty if the table has none.
        why: `UNCERTAIN`, `VERDICT` (unlike the training images) or `AUDIT` (drawn at random).
    """

    key: str
    source: str = ""
    member: str = ""
    label: str = ""
    probability: float = 0.0
    outlier_score: float | None = None
    verdict: str = ""
    why: str = UNCERTAIN


QUEUE_COLUMNS: Final = (*QueueRow.__dataclass_fields__, "answer", "reviewer")
"""Columns of the CSV; people fill the last two."""


@dataclass(frozen=True)
class QueueFacts:
    """States what a queue was made for, and what follows once it is answered.

    Attributes:
        table_written: When the table was finished, to recognise a later one.
        risk: Largest share of wrong labels among those that nobody reviews.
        confidence: Least probability that this share is kept.
        images: Rows of the table.
        review: Images that the promise takes to be reviewed; all listed images without a promise.
        accepted: Images whose label is accepted without review, except for those of the audit,
            which are drawn from them; without a promise all that are not listed.
        held_out: Images with known labels and as high a confidence, behind the promise.
        wrong: Those of them with a wrong label.
        threshold: Smallest accepted probability; None without a promise.
        listed: Images listed by reason.
        no_promise: Why there is no promise; empty if there is one.
    """

    table_written: str
    risk: float
    confidence: float
    images: int
    review: int
    accepted: int
    held_out: int = 0
    wrong: int = 0
    threshold: float | None = None
    listed: dict[str, int] = field(default_factory=dict)
    no_promise: str = ""

    @property
    def doubtful(self) -> int:
        """Returns the number of listed images that are not part of the audit."""
        return sum(count for why, count in self.listed.items() if why != AUDIT)

    def line(self) -> str:
        """Returns the promise, or why there is none, in one or two sentences."""
        if self.no_promise:
            return (
                f"no promise: {self.no_promise}; the {self.doubtful:,} images listed are the most"
                " doubtful ones"
            )
        which = f"these {self.review:,} images"
        if self.doubtful < self.review:
            which += f", of which the {self.doubtful:,} most doubtful are listed (--most)"
        return (
            f"review {which}; the other {self.accepted:,} labels are at least"
            f" {percent(1 - self.risk)} correct with {percent(self.confidence)} confidence"
            f" ({self.wrong:,} of {self.held_out:,} held-out images as certain have a wrong label)"
        )


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
    if not overwrite and _has_answers(archive.ledger):
        raise InputError(
            f"{archive.ledger.path(QUEUE_FILE)}: has answers; apply them first, or pass"
            " --overwrite to lose them"
        )
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
    archive.ledger.write(QUEUE_FILE, format_queue(rows))
    archive.ledger.write(FACTS_FILE, json.dumps(asdict(facts), indent=2).encode() + b"\n")
    return facts, rows


def read_facts(archive: LabelledArchive) -> QueueFacts:
    """Reads `review/queue.json`.

    Raises:
        InputError: There is none, or the table was made anew after it.
    """
    path = archive.ledger.path(FACTS_FILE)
    try:
        facts = QueueFacts(**json.loads(archive.ledger.read(FACTS_FILE)))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: no queue; make one with `vaeline review create`") from error
    if facts.table_written != archive.manifest["written"]:
        raise InputError(f"{path}: the table was made anew since; create the queue again")
    return facts


def format_queue(rows: list[QueueRow]) -> bytes:
    """Returns the CSV (RFC 4180, UTF-8 with a byte order mark, which spreadsheets need)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, QUEUE_COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue().encode("utf-8-sig")


def _has_answers(ledger: Ledger) -> bool:
    try:
        text = ledger.read(QUEUE_FILE).decode("utf-8-sig", "replace")
    except FileNotFoundError:
        return False
    return any((row.get("answer") or "").strip() for row in csv.DictReader(io.StringIO(text)))


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
    if reject is not None and _has_verdicts(archive):
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


def _has_verdicts(archive: LabelledArchive) -> bool:
    return any(column["name"] == "verdict" for column in archive.manifest["schema"])


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
