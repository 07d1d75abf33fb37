"""Parses the rows of CSV, TSV and JSON Lines, without losing any to a stray quotation mark.

`manifest.py` calls it with the decoded text of a manifest.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from trainer.errors import InputError

_DELIMITERS: Final = ",;\t|"


def csv_rows(path: str, text: Any, suffix: str) -> Iterator[Mapping[str | None, Any]]:
    """Reads text with a header; the delimiter is the one that the header has most of.

    Args:
        path: The manifest, for messages.
        text: An open text file; line breaks are as they are in the file.
        suffix: `tsv` if the delimiter is a tabulator.

    Yields:
        Each row's values by column.

    Raises:
        InputError: if a row has more values than the header, or never ends.
    """
    header = ""
    while not header.strip():
        if not (header := text.readline()):
            return
    delimiter = max(_DELIMITERS, key=header.count) if suffix != "tsv" else "\t"
    if not any(map(header.count, _DELIMITERS)):
        delimiter = ","
    at_end = False

    def lines() -> Iterator[str]:
        nonlocal at_end
        yield header
        yield from text
        at_end = True

    # Otherwise spaces after a delimiter hide the quotes of a cell.
    rows = csv.DictReader(lines(), delimiter=delimiter, skipinitialspace=delimiter != "\t")
    for number, row in enumerate(rows, 1):
        # The reader asks for another line only inside of quotes.
        if at_end:
            raise InputError(
                f"{path}: row {number} goes on to the end: a quotation mark is not closed; double"
                " it, or remove it"
            )
        extra: Any = row.get(None)
        if extra and any(map(_is_filled, extra)):
            count = len(row) - 1
            raise InputError(
                f"{path}: row {number} has {count + len(extra)} values and the header {count}; put"
                f" quotation marks around values that hold {delimiter!r}"
            )
        # Spreadsheets write rows of delimiters alone behind the last one.
        if any(map(_is_filled, row.values())):
            yield row


def holds_rows(value: str, columns: int) -> bool:
    """Returns whether a cell has swallowed rows, because a quotation mark was not closed.

    Args:
        value: The cell's text.
        columns: The number of columns; in rows of one column there is no delimiter.
    """
    _, line_break, rest = value.partition("\n")
    return bool(line_break) and (columns == 1 or any(map(rest.__contains__, _DELIMITERS)))


def json_rows(path: str, text: Iterable[str]) -> Iterator[Mapping[str | None, Any]]:
    """Reads JSON Lines.

    Args:
        path: The manifest, for messages.
        text: The lines.

    Yields:
        The object in each line that is not empty.

    Raises:
        InputError: if a line is no JSON object.
    """
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is no JSON object")
        yield row


def _is_filled(value: str | list[str] | None) -> bool:
    return bool(value) and (isinstance(value, list) or not str(value).isspace())
