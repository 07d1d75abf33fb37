"""Defines a queue of images for people to check, and its two files next to a table.

`queue.py` and `label_errors.py` fill it, `answers.py` reads it back.
"""

import codecs
import json
from dataclasses import asdict, dataclass, field
from typing import Final

from components.bulk_inference.output.kept_answers import QUEUE, has_answers
from components.bulk_inference.output.ledger import REVIEW
from components.csv_files import format_csv_rows
from components.review.labelled_archive import LabelledArchive
from components.review.promise import percent
from trainer.errors import InputError

QUEUE_FILE: Final = f"{REVIEW}/{QUEUE}"
FACTS_FILE: Final = f"{REVIEW}/queue.json"

UNCERTAIN: Final = "uncertain"
VERDICT: Final = "verdict"
AUDIT: Final = "audit"
GIVEN: Final = "given label"


@dataclass(frozen=True)
class QueueRow:
    """An image to check.

    Attributes:
        key: Key of the table.
        source: The archive; empty if the table has no such column.
        member: The name in the archive; empty as well.
        label: The predicted label, or the one suggested in place of a given label.
        probability: Its calibrated probability.
        outlier_score: The score; None if the table has none.
        verdict: The verdict; empty if the table has none.
        given_label: The label that the archive gives; empty if it gives none.
        why: `UNCERTAIN`, `VERDICT` (unlike the training images), `AUDIT` (drawn at random) or
            `GIVEN` (the given label may be wrong).
    """

    key: str
    source: str = ""
    member: str = ""
    label: str = ""
    probability: float = 0.0
    outlier_score: float | None = None
    verdict: str = ""
    given_label: str = ""
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
        wrong_given: Estimated number of wrong given labels, if the queue lists these; else None.
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
    wrong_given: int | None = None

    @property
    def doubtful(self) -> int:
        """Returns the number of listed images that are not part of the audit."""
        return sum(count for why, count in self.listed.items() if why != AUDIT)

    def line(self) -> str:
        """Returns the promise, or why there is none, in one or two sentences."""
        if self.wrong_given is not None:
            return (
                f"about {self.wrong_given:,} of {self.images:,} given labels are wrong; the"
                f" {self.doubtful:,} most doubtful are listed"
            )
        if self.no_promise:
            which = f"the {self.doubtful:,} images listed are the most doubtful ones"
            if self.doubtful == self.images:
                which = f"all {self.images:,} images are listed, the most doubtful first"
            return f"no promise: {self.no_promise}; {which}"
        which = f"these {self.review:,} images"
        if self.doubtful < self.review:
            which += f", of which the {self.doubtful:,} most doubtful are listed (--most)"
        return (
            f"review {which}; the other {self.accepted:,} labels are at least"
            f" {percent(1 - self.risk)} correct with {percent(self.confidence)} confidence"
            f" ({self.wrong:,} of {self.held_out:,} held-out images as certain have a wrong label)"
        )


def write_queue(archive: LabelledArchive, facts: QueueFacts, rows: list[QueueRow]) -> None:
    """Writes `review/queue.csv` and `review/queue.json`."""
    archive.ledger.write(QUEUE_FILE, format_queue(rows))
    archive.ledger.write(FACTS_FILE, json.dumps(asdict(facts), indent=2).encode() + b"\n")


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
    filled = ((*asdict(row).values(), "", "") for row in rows)
    return codecs.BOM_UTF8 + format_csv_rows(QUEUE_COLUMNS, filled)


def require_replaceable(archive: LabelledArchive, *, overwrite: bool) -> None:
    """Raises InputError if a queue with answers is there that must not be overwritten."""
    path = archive.ledger.path(QUEUE_FILE)
    if overwrite or not has_answers(path):
        return
    try:
        read_facts(archive)
        way_out = "apply them first, or pass --overwrite to lose them"
    except InputError:
        way_out = (
            "the table has changed since it was made, so that they cannot be applied; save a"
            " copy, and pass --overwrite to make a new one"
        )
    raise InputError(f"{path}: has answers; {way_out}")
