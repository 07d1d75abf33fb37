"""Writes the rejects and duplicates tables as Parquet, one file per part, merged at the end."""

import io
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.image_sources.batch import Reject
from components.image_sources.naming import printable
from components.sinks import ParquetSink
from trainer.storage import files

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
"""Columns of `duplicates.parquet`: one row per image that has copies, including the kept one."""


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


def merge(output: str, parts: str, target: str, schema: pa.Schema) -> int:
    """Concatenates the parts of a table.

    Args:
        output: The artifact's folder.
        parts: The folder of the parts, relative to `output`.
        target: The file of the table, relative to `output`.
        schema: The columns.

    Returns:
        The number of rows in the table.
    """
    rows = 0
    found = files.list_names(f"{output}/{parts}")
    with files.writing(f"{output}/{target}") as file:
        sink = ParquetSink(file, schema)
        for content in files.read_each(f"{output}/{parts}/{name}" for name in found):
            for batch in pq.read_table(io.BytesIO(content), schema=schema).to_batches():
                sink.write(batch)
                rows += batch.num_rows
        sink.close()
    return rows
