"""Reads a review queue and the answers that people gave, as spreadsheets and pandas save them.

`answers.py` calls it.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from components.csv_files import read_csv_rows
from components.image_sources.corrections import TAKEN_OUT
from components.review.queue_file import QUEUE_COLUMNS, QUEUE_FILE
from trainer.errors import InputError


@dataclass(frozen=True)
class Answer:
    """One image's answer.

    Attributes:
        key: The image's key in the table.
        label: The right label; `TAKEN_OUT` if there is none.
        reviewer: Who gave it; may be empty.
    """

    key: str
    label: str
    reviewer: str


def read_queue(path: str, classes: Sequence[str]) -> dict[str, dict[str, str]]:
    """Reads the queue by key; labels that a spreadsheet has changed are those of the model again.

    Args:
        path: The file.
        classes: The model's classes.

    Raises:
        InputError: A column is missing.
    """
    remedy = f"restore it, and give answers in a copy of {QUEUE_FILE}"
    rows = read_csv_rows(path, QUEUE_COLUMNS[:-1], remedy=remedy)
    queue = {row["key"]: {name: text or "" for name, text in row.items()} for _, row in rows}
    for row in queue.values():
        for column in ("label", "given_label"):
            row[column] = class_of(row[column], classes) or row[column]
    return queue


def read_answers(
    paths: Sequence[str],
    listed: Collection[str],
    classes: Sequence[str],
    reviewer: str,
    *,
    new_labels: bool,
) -> dict[str, Answer]:
    """Reads the answers of all files, by key.

    Args:
        paths: CSV files with the columns `key` and `answer`.
        listed: Keys of the queue.
        classes: The model's classes.
        reviewer: Recorded where a row names nobody.
        new_labels: Whether answers may be labels that the model does not know.

    Raises:
        InputError: There are none, one is not valid, or two disagree.
    """
    found: dict[str, tuple[Answer, str]] = {}
    for path in paths:
        for where, row in _read(path):
            text = (row["answer"] or "").strip()
            if not text:
                continue
            key = row["key"]
            if key not in listed:
                raise InputError(f"{where}: {key!r} is not in the queue; give files made from it")
            label = _checked(text, where, classes, new_labels)
            earlier = found.get(key)
            if earlier and earlier[0].label != label:
                raise InputError(
                    f"{where}: {key!r} is {label!r} here and {earlier[0].label!r} in {earlier[1]};"
                    " settle it in one of them"
                )
            person = (row.get("reviewer") or "").strip() or reviewer
            found[key] = (Answer(key, label, person), where)
    if not found:
        raise InputError(f"{paths[0]}: no answers; fill in the column `answer`")
    return {key: answer for key, (answer, _) in found.items()}


def class_of(text: str, classes: Sequence[str]) -> str | None:
    """Returns the class that is meant by what people, spreadsheets or pandas make of its name.

    Args:
        text: The text, such as `Cat` for `cat`, or `7` or `7.0` for `07`.
        classes: The model's classes.
    """
    if text in classes:
        return text
    for alike in (str.casefold, _number):
        meant = alike(text)
        found = [name for name in classes if meant is not None and alike(name) == meant]
        if len(found) == 1:
            return found[0]
    return None


def _number(text: str) -> float | None:
    return float(text) if text.replace(".", "", 1).isdecimal() else None


def _read(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    yield from read_csv_rows(
        path, ("key", "answer"), remedy=f"keep the columns of {QUEUE_FILE} and fill in `answer`"
    )


def _checked(text: str, where: str, classes: Sequence[str], new_labels: bool) -> str:
    if text == TAKEN_OUT:
        return text
    if meant := class_of(text, classes):
        return meant
    if new_labels:
        return text
    shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    raise InputError(
        f"{where}: {text!r} is no class of the model ({shown}) and not {TAKEN_OUT!r};"
        " correct it, or pass --new-labels"
    )
