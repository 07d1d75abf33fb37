"""Takes people's answers to a review queue into the table, and into images for the next training.

`vaeline review apply` calls it.
"""

import datetime
import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from components.bulk_inference.output.kept_answers import CORRECTIONS
from components.bulk_inference.output.ledger import REVIEWED, TABLE
from components.bulk_inference.output.table_rows import SHARD_SUFFIXES
from components.csv_files import format_csv_rows
from components.image_checks import ImageFaultError, check
from components.image_sources.corrections import TAKEN_OUT
from components.image_sources.pick import pick_each
from components.review.answer_files import Answer, read_answers, read_queue
from components.review.labelled_archive import LabelledArchive
from components.review.promise import most_wrong, percent, promised_share
from components.review.queue_file import (
    AUDIT,
    GIVEN,
    QUEUE_FILE,
    QueueFacts,
    read_facts,
)
from components.sinks import ParquetSink
from trainer.storage import files

LABELS_FILE: Final = f"{REVIEWED}/labels.csv"
"""A manifest of the images with an answer, which ingest reads."""

CORRECTIONS_FILE: Final = f"{REVIEWED}/{CORRECTIONS}"
"""The answers by content, which ingest applies to the archives themselves."""

_IMAGES: Final = "images"
_SECONDS: Final = 3600.0
"""Time limit for fetching the images with answers from their archives."""
_ADDED: Final = (
    pa.field("final_label", pa.string()),
    pa.field("label_from", pa.string()),
    pa.field("reviewer", pa.string()),
)


@dataclass
class ReviewResult:
    """States what a review changed.

    Attributes:
        table: Folder of the table with the answers.
        manifest: The manifest of the images with answers, for the next training.
        corrections: The answers by content, for the next ingest of the archives; empty if the
            table has no column `sha256`.
        answered: Images with an answer.
        changed: Those whose label was wrong.
        not_usable: Those of no class.
        unanswered: Listed images without an answer, by reason of the list.
        missing: Images with an answer that could not be fetched from their archives.
        audited: Answered images of the audit.
        audit_wrong: Those of them whose label was wrong.
        most_wrong: Bound on the wrong labels that nobody reviewed, from the audit; None without.
        line: What can be said of the labels that nobody reviewed.
    """

    table: str
    manifest: str
    corrections: str = ""
    answered: int = 0
    changed: int = 0
    not_usable: int = 0
    unanswered: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    audited: int = 0
    audit_wrong: int = 0
    most_wrong: int | None = None
    line: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns all attributes as JSON-compatible types."""
        return asdict(self)


def apply_answers(
    output: str, paths: Sequence[str], *, reviewer: str = "", new_labels: bool = False
) -> ReviewResult:
    """Writes the table with answers to `reviewed/table`, and the images with answers beside it.

    The job's own table stays as it is. Applying again replaces the folder.

    Args:
        output: The folder of the bulk job.
        paths: CSV files with the columns of the queue, filled in; `review/queue.csv` by default.
        reviewer: Recorded where a row names nobody.
        new_labels: Whether answers may be labels that the model does not know.

    Raises:
        InputError: An answer is not valid, or two files disagree; nothing is written.
    """
    archive = LabelledArchive(output)
    facts = read_facts(archive)
    ledger = archive.ledger
    classes = archive.manifest["model"]["classes"]
    queue = read_queue(ledger.path(QUEUE_FILE), classes)
    paths = paths or [ledger.path(QUEUE_FILE)]
    answers = read_answers(paths, queue.keys(), classes, reviewer, new_labels=new_labels)
    ledger.remove(REVIEWED)
    digests: dict[str, str] = {}
    for shard in archive.shards:
        digests |= _write_shard(archive, shard, answers)
    result = ReviewResult(ledger.path(posixpath.join(REVIEWED, TABLE)), ledger.path(LABELS_FILE))
    if digests:
        result.corrections = ledger.path(CORRECTIONS_FILE)
        corrected = ((digest, answers[key]) for key, digest in digests.items())
        ledger.write(CORRECTIONS_FILE, _signed("sha256", corrected, queue, for_people=True))
    fetched = _write_images(archive, queue, answers)
    _count(result, facts, queue, answers)
    result.missing = result.answered - result.not_usable - fetched
    result.line = _conclusion(result, facts)
    return result


def _write_shard(
    archive: LabelledArchive, shard: str, answers: Mapping[str, Answer]
) -> dict[str, str]:
    """Writes one file of the table with the answers; returns the digests of the images answered."""
    keys = pa.array(list(answers), pa.string())
    labels = pa.array([_final(answer.label) for answer in answers.values()], pa.string())
    people = pa.array([answer.reviewer for answer in answers.values()], pa.string())
    stem = shard.removesuffix(SHARD_SUFFIXES[archive.format])
    path = archive.ledger.path(posixpath.join(REVIEWED, f"{stem}.parquet"))
    digests: dict[str, str] = {}
    first = next(rows := archive.rows(shard), None)
    if first is None:
        return digests  # all members of the unit were rejected
    schema = pa.schema([*first.schema, *_ADDED])
    with files.writing(path) as file:
        sink = ParquetSink(file, schema)
        for batch in chain([first], rows):
            names = _texts(batch, "key")
            places = pc.index_in(names, value_set=keys)
            reviewed = places.is_valid()
            if "sha256" in batch.schema.names:
                found = (names.filter(reviewed), _texts(batch, "sha256").filter(reviewed))
                digests |= dict(zip(*(column.to_pylist() for column in found), strict=True))
            final = pc.if_else(reviewed, labels.take(places), _texts(batch, "label"))
            source = pc.if_else(reviewed, "review", "model")
            arrays = [*batch.columns, final, source, people.take(places)]
            sink.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
        sink.close()
    return digests


def _signed(
    first: str,
    rows: Iterable[tuple[str, Answer]],
    queue: Mapping[str, Mapping[str, str]],
    *,
    for_people: bool,
) -> bytes:
    """Returns a CSV of answers, each with what identifies the image in a first column."""
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return format_csv_rows(
        (first, "label", "key", "doubted_label", "reviewer", "applied"),
        (
            (value, each.label, each.key, _doubted(queue[each.key]), each.reviewer, made)
            for value, each in rows
        ),
        for_people=for_people,
    )


def _texts(batch: pa.RecordBatch, name: str) -> pa.Array:
    return batch.column(batch.schema.get_field_index(name)).cast(pa.string())


def _final(label: str) -> str | None:
    return None if label == TAKEN_OUT else label


def _write_images(
    archive: LabelledArchive, queue: Mapping[str, Mapping[str, str]], answers: Mapping[str, Answer]
) -> int:
    """Writes the images with a label, named by their content, and the manifest.

    Returns:
        The number of images that were fetched from their archives.
    """
    wanted: dict[str, dict[str, list[Answer]]] = {}
    for key, answer in answers.items():
        if answer.label != TAKEN_OUT:
            row = queue[key]
            by_member = wanted.setdefault(row["source"], {})
            # Spreadsheets change a member such as `00000007` to 7.
            member = key.removeprefix(f"{row['source']}/")
            by_member.setdefault(member, []).append(answer)
    names = {source: set(members) for source, members in wanted.items()}
    written: list[tuple[str, Answer]] = []
    for source, member, content in pick_each(archive.input, names, seconds=_SECONDS):
        header = check(content, archive.input.limits)
        kind = "bin" if isinstance(header, ImageFaultError) else header.format
        path = f"{_IMAGES}/{hashlib.sha256(content).hexdigest()[:32]}.{kind}"
        archive.ledger.write(posixpath.join(REVIEWED, path), content)
        written.extend((path, answer) for answer in wanted[source][member])
    # Any program may read a manifest.
    archive.ledger.write(LABELS_FILE, _signed("path", written, queue, for_people=False))
    return len(written)


def _count(
    result: ReviewResult,
    facts: QueueFacts,
    queue: Mapping[str, Mapping[str, str]],
    answers: Mapping[str, Answer],
) -> None:
    result.answered = len(answers)
    wrong = {key for key, answer in answers.items() if answer.label != _doubted(queue[key])}
    result.changed = len(wrong)
    result.not_usable = sum(answer.label == TAKEN_OUT for answer in answers.values())
    # Rows that people deleted from the queue are not answered.
    listed, found = Counter(facts.listed), Counter(queue[key]["why"] for key in answers)
    result.unanswered = dict(listed - found)
    audited = {key for key in answers if queue[key]["why"] == AUDIT}
    result.audited, result.audit_wrong = len(audited), len(audited & wrong)


def _doubted(row: Mapping[str, str]) -> str:
    """Returns the label that a row of the queue asks about."""
    return row["given_label"] if row["why"] == GIVEN else row["label"]


def _conclusion(result: ReviewResult, facts: QueueFacts) -> str:
    if facts.wrong_given is not None:
        return (
            f"about {facts.wrong_given:,} of {facts.images:,} given labels were taken for wrong; of"
            f" {result.answered:,} with an answer {result.changed:,} were"
        )
    parts = []
    left = sum(count for why, count in result.unanswered.items() if why != AUDIT)
    unlisted = facts.review - facts.doubtful
    if not facts.no_promise and left + unlisted:
        parts.append(f"the promise takes {left + unlisted:,} more answers")
    elif not facts.no_promise:
        counts = (facts.accepted, result.audited, result.audit_wrong)
        promised = promised_share(*counts, facts.risk)
        parts.append(
            f"the audit refutes the promise of {percent(1 - facts.risk)}"
            if promised is None
            else f"the {facts.accepted - result.audited:,} labels that nobody reviewed are at least"
            f" {percent(promised)} correct with {percent(facts.confidence)} confidence"
        )
    if result.audited and result.unanswered.get(AUDIT):
        # Images that reviewers skip are not a random choice.
        parts.append(f"the audit takes {result.unanswered[AUDIT]:,} more answers")
    elif result.audited:
        others = facts.accepted - result.audited
        result.most_wrong = most_wrong(result.audit_wrong, result.audited, others, facts.confidence)
        share = 1.0 - result.most_wrong / max(others, 1)
        parts.append(
            f"by the audit ({result.audit_wrong:,} of {result.audited:,} wrong), the other"
            f" {others:,} labels are at least {percent(share)} correct with"
            f" {percent(facts.confidence)} confidence"
        )
    if not parts:
        parts.append(f"nothing is promised of the other labels: {facts.no_promise}")
    return "; ".join(parts)
