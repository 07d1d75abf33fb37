"""The rejects and duplicates tables: Parquet, written by part and put together at the end."""

import io
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.image_example_gen.output import OutputFolder
from components.image_sources.batch import Reject
from components.sinks import ParquetSink

REJECTS: Final = pa.schema([(name, pa.string()) for name in Reject._fields])
"""Columns of `rejects.parquet`: source, member, stage, reason, detail."""

DUPLICATES: Final = pa.schema(
    [
        ("sha256", pa.string()),
        ("image", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("dropped", pa.bool_()),
        ("conflict", pa.bool_()),
    ]
)
"""Columns of `duplicates.parquet`: one row per image that has copies, the one that stays too."""


def printable(text: str) -> str:
    """Makes a name storable as UTF-8: bytes that are none are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_parquet(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> bytes:
    """Serialises rows as one Parquet file."""
    columns = zip(*rows, strict=True)
    arrays = [
        pa.array([printable(v) if isinstance(v, str) else v for v in values], column.type)
        for column, values in zip(schema, columns, strict=True)
    ]
    file = io.BytesIO()
    sink = ParquetSink(file, schema)
    sink.write(pa.record_batch(arrays, schema=schema))
    sink.close()
    return file.getvalue()


def merge(output: OutputFolder, parts: str, target: str, schema: pa.Schema) -> int:
    """Puts the parts of a table together, one after the other.

    Args:
        output: The artifact's folder.
        parts: Folder of the parts in it.
        target: The table's file in it.
        schema: Columns.

    Returns:
        Rows of the table.
    """
    rows = 0
    with output.create(target) as file:
        sink = ParquetSink(file, schema)
        for name in output.names(parts):
            for batch in pq.read_table(io.BytesIO(output.read(name)), schema=schema).to_batches():
                sink.write(batch)
                rows += batch.num_rows
        sink.close()
    return rows
