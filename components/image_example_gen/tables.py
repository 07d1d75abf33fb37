"""Merges the parts of the rejects and duplicates tables, and defines the columns of the latter."""

import io
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.image_findings.image_measures import MEASURES
from components.sinks import ParquetSink
from trainer.storage import files

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

NEAR_DUPLICATES: Final = pa.schema(
    [
        ("sha256", pa.string()),
        ("image", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("family", pa.string()),
        ("distance", pa.float32()),
        ("moved", pa.bool_()),
        ("dropped", pa.bool_()),
    ]
)
"""Columns of `near_duplicates.parquet`: one row per image that has near-duplicates."""


FOUND: Final = pa.schema(
    [
        ("sha256", pa.string()),
        ("image", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("findings", pa.list_(pa.string())),
        *((name, pa.float32()) for name in MEASURES),
    ]
)
"""Columns of `findings.parquet`: one row per image about which something was found."""


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
