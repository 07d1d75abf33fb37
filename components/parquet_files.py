"""Reads Parquet files batch by batch; sources, tables of bulk jobs and reports call it."""

import importlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

_FIXED_IN: Final = 14
"""Major version of pyarrow that no longer runs code from a file's schema."""
_WINDOW: Final = 1024 * 1024


def open_untrusted(stream: BinaryIO) -> pq.ParquetFile:
    """Opens a file that somebody else wrote.

    Args:
        stream: Bytes of the file; seekable. Its columns are read in pieces of 1 MiB, because a
            row group of images may have gigabytes.

    Raises:
        pyarrow.ArrowException: if it is no Parquet file, or a damaged one.
    """
    if int(pa.__version__.partition(".")[0]) < _FIXED_IN:
        # CVE-2023-47248: reading untrusted data could run code; importing the package fixes it.
        importlib.import_module("pyarrow_hotfix")
    return pq.ParquetFile(stream, buffer_size=_WINDOW)


def row_batches(
    file: pq.ParquetFile,
    *,
    batch_size: int,
    columns: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file.

    Args:
        file: The open file.
        batch_size: Maximum number of rows of a batch.
        columns: Names of the columns to read; all by default.
        groups: Indices of the row groups to read; all by default.
    """
    # Newer versions of pyarrow cannot iterate over a file without row groups.
    if file.num_row_groups:
        yield from file.iter_batches(batch_size=batch_size, columns=columns, row_groups=groups)
