"""CSV files that people open in spreadsheets."""

import csv
import io
from pathlib import Path

import pytest

from components.csv_files import format_csv_rows, read_csv_rows

FORMULAS = ["=1+1.png", "+a", "@SUM(A1)", "-rf.png", "\t=1", "\r=1", "'=1", "''+1"]
TEXTS = ["-", "", "'", "'a", "a=b", "/data/=x.png", "it's"]


def test_no_text_of_an_archive_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(format_csv_rows(("name", "score"), [(text, -1.5) for text in FORMULAS]))
    written = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))[1:]
    assert written == [[f"'{text}", "-1.5"] for text in FORMULAS]
    rows = [row for _, row in read_csv_rows(str(path), ["name"], remedy="")]
    assert rows == [{"name": text, "score": "-1.5"} for text in FORMULAS]


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_stay_as_they_are(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(format_csv_rows(("name", "score"), [(text, None)]))
    assert next(csv.reader(io.StringIO(path.read_text().partition("\n")[2])))[0] == text
    assert [row["name"] for _, row in read_csv_rows(str(path), ["name"], remedy="")] == [text]
