"""Reads Parquet files batch by batch; sources, tables of bulk jobs and reports call it."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def row_batches(
    file: pq.ParquetFile, *, batch_size: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file.

    Args:
        file: The open file.
        batch_size: Maximum number of rows of a batch.
        columns: Names of the columns to read; all by default.
    """
    # Newer versions of pyarrow cannot iterate over a file without row groups.
    if file.num_row_groups:
        yield from file.iter_batches(batch_size=batch_size, columns=columns)
