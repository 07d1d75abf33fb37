"""Rows of a table are read back as they were written, in every format that is readable."""

from pathlib import Path

import pyarrow as pa
import pytest

from components.bulk_inference.output.table_rows import SHARD_SUFFIXES, shard_rows
from components.sinks import SINKS
from trainer.errors import InputError

ROWS = {
    "key": pa.array(["a.zip/007.png", "a.zip/NA", "a.zip/3"]),
    "label": pa.array(["007", "NA", "true"]).dictionary_encode(),
    "given_label": pa.array(["12", None, "null"]).dictionary_encode(),
    "probability": pa.array([0.5, 1.0, 0.25], pa.float32()),
}


@pytest.mark.parametrize("table_format", ["parquet", "csv", "jsonl"])
def test_labels_that_look_like_something_else_stay_texts(tmp_path: Path, table_format: str) -> None:
    path = tmp_path / f"part{SHARD_SUFFIXES[table_format]}"
    rows = pa.RecordBatch.from_pydict(ROWS)
    with path.open("wb") as file:
        sink = SINKS[table_format](file, rows.schema)
        sink.write(rows)
        sink.close()
    (found,) = shard_rows(str(path), table_format)
    assert found.to_pydict() == rows.to_pydict()
    (labels,) = shard_rows(str(path), table_format, ("label", "no such column"))
    assert labels.to_pydict() == {"label": ["007", "NA", "true"]}


@pytest.mark.parametrize("table_format", ["parquet", "csv", "jsonl"])
def test_names_with_line_breaks_are_read_from_large_shards(
    tmp_path: Path, table_format: str
) -> None:
    path = tmp_path / f"part{SHARD_SUFFIXES[table_format]}"
    keys = [f"a.zip/line\nbreak {place:06d}.png" for place in range(40_000)]
    rows = pa.RecordBatch.from_pydict({"key": pa.array(keys), "label": pa.array(["1"] * len(keys))})
    with path.open("wb") as file:
        sink = SINKS[table_format](file, rows.schema)
        sink.write(rows)
        sink.close()
    found = [key for part in shard_rows(str(path), table_format) for key in part["key"].to_pylist()]
    assert found == keys


@pytest.mark.parametrize("table_format", ["parquet", "csv", "jsonl"])
def test_a_damaged_shard_is_named(tmp_path: Path, table_format: str) -> None:
    path = tmp_path / f"part{SHARD_SUFFIXES[table_format]}"
    path.write_bytes(b'PAR1,{"a"\n1')
    with pytest.raises(InputError, match=f"{path.name}: damaged or cut short"):
        list(shard_rows(str(path), table_format))
