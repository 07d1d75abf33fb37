"""Keeps people's answers to a review when the table that they are about is made anew.

`ledger.py` calls it before it removes the folders of the review, `components/review` before it
replaces a queue.
"""

import datetime
import posixpath
from typing import Final

from components.csv_files import read_csv_rows
from trainer.errors import InputError
from trainer.storage import files

QUEUE: Final = "queue.csv"
CORRECTIONS: Final = "corrections.csv"
ANSWERS: Final = "_answers"
"""Folder of the answers to reviews of earlier tables."""


def keep_answers(output: str, review: str, reviewed: str) -> list[str]:
    """Copies a queue with answers, and the corrections that were made of them.

    Args:
        output: The job's folder.
        review: Name of its folder with the queue.
        reviewed: Name of its folder with the applied answers.

    Returns:
        A note with their new place; none if there are no answers.
    """
    queue = posixpath.join(output, review, QUEUE)
    corrections = posixpath.join(output, reviewed, CORRECTIONS)
    found = [queue] if has_answers(queue) else []
    found += [corrections] if files.exists(corrections) else []
    if not found:
        return []
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H-%M-%S")
    folder = posixpath.join(output, ANSWERS, now)
    for path in found:
        kept = posixpath.join(folder, posixpath.basename(path))
        files.write_bytes(kept, files.read_bytes(path))
    return [f"answers to the review of the earlier table are kept in {folder}"]


def has_answers(path: str) -> bool:
    """Returns whether a queue has answers; one that cannot be read may have some."""
    if not files.exists(path):
        return False
    try:
        rows = read_csv_rows(path, ("answer",), remedy="")
        return any((row["answer"] or "").strip() for _, row in rows)
    except InputError:
        return True  # such as a queue that was saved in another encoding
