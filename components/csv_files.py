"""Reads and writes small CSV files that people edit: queues, answers, corrections.

`components/review` and `components/image_sources/corrections.py` call it. Input manifests may be
large, and have a reader of their own.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.config import StorageConfig

_FORMULA: Final = re.compile(r"'*[=+@\t\r-].", re.DOTALL)
"""What spreadsheets take for a formula, such as a file called `=1+1.png`; a lone `-` is text."""


def read_csv_rows(
    path: str, columns: Sequence[str], *, remedy: str, storage: StorageConfig | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """Reads a file with any delimiter and byte order mark that spreadsheets write.

    Args:
        path: The file, local or remote.
        columns: Columns that must be there.
        remedy: What to do if one is missing, for the message.
        storage: How buckets are reached.

    Yields:
        The place of a row, for messages, and its fields by column.

    Raises:
        InputError: The file is missing, not UTF-8, or lacks a column.
    """
    try:
        text = files.read_bytes(path, storage or StorageConfig()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; save it as CSV in UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = [name for name in columns if name not in (rows.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; {remedy}")
    for number, row in enumerate(rows, 2):
        yield f"{path}: row {number}", {name: _plain(text) for name, text in row.items()}


def format_csv_rows(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, for_people: bool = True
) -> bytes:
    """Returns the content of a CSV file (RFC 4180, UTF-8) with a header line.

    Args:
        columns: Names of the columns.
        rows: Fields of each row.
        for_people: Whether texts that spreadsheets would take for formulas get an apostrophe in
            front, which `read_csv_rows` removes. Archives of others may hold any names.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(map(_guarded, row) if for_people else row for row in rows)
    return text.getvalue().encode()


def _guarded(field: object) -> object:
    return f"'{field}" if isinstance(field, str) and _FORMULA.match(field) else field


def _plain(field: Any) -> Any:
    is_guarded = isinstance(field, str) and field.startswith("'") and _FORMULA.match(field)
    return field[1:] if is_guarded else field
