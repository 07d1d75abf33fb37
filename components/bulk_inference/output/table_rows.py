"""Reads the rows of a bulk job's table, shard by shard, whatever its format.

The archive report, `components/review` and units that keep rows call it.
"""

from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from components.parquet_files import row_batches
from trainer.errors import InputError
from trainer.storage import files

SHARD_SUFFIXES: Final = {
    "parquet": ".parquet",
    "jsonl": ".jsonl",
    "csv": ".csv",
    "npy": ".index.parquet",
}
"""Suffix of the files from which rows are read, by format of the table."""
_BATCH: Final = 65_536
_TEXTS: Final = ("key", "source", "member", "sha256", "label", "given_label", "verdict")


def shard_rows(
    path: str, table_format: str, columns: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of one shard.

    Args:
        path: The file, local or remote.
        table_format: A key of `SHARD_SUFFIXES`.
        columns: Columns to read; those that the shard lacks are omitted. All by default.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        yield from _rows(path, table_format, columns)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path}: damaged or cut short ({str(error).splitlines()[0]}); restore it, or label the"
            " archive again with --overwrite"
        ) from error


def vectors(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns a column of lists of one length, float32 [n, length]."""
    values = pc.list_flatten(column).to_numpy()
    return values.reshape(len(column), -1).astype(np.float32)


def class_probabilities(table: pa.Table, classes: pa.Array) -> np.ndarray:
    """Returns the model's probabilities of each class.

    Args:
        table: Rows with the column `probabilities`, or with `top_k_labels` and
            `top_k_probabilities`; what these leave is spread evenly over the other classes.
        classes: The K names.

    Returns:
        float32 [n, K].
    """
    if "probabilities" in table.schema.names:
        return vectors(table["probabilities"])
    best = vectors(table["top_k_probabilities"])
    labels = pc.list_flatten(table["top_k_labels"]).cast(pa.string())
    places = pc.index_in(labels, value_set=classes).to_numpy().reshape(best.shape).astype(np.int64)
    rest = np.maximum(1.0 - best.sum(axis=1, keepdims=True), 0.0)
    found = np.repeat(rest / max(len(classes) - best.shape[1], 1), len(classes), axis=1)
    np.put_along_axis(found, places, best, axis=1)
    return found.astype(np.float32)


def _rows(path: str, table_format: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with _open(path) as file:
        if table_format in ("parquet", "npy"):
            shard = pq.ParquetFile(file)
            there = [n for n in shard.schema_arrow.names if not columns or n in columns]
            yield from row_batches(shard, batch_size=_BATCH, columns=there)
            return
        if table_format == "jsonl" and not file.read(1):
            return  # a unit without rows
        file.seek(0)
        table = pyarrow.json.read_json(file) if table_format == "jsonl" else _read_csv(file)
        there = [name for name in table.schema.names if not columns or name in columns]
        yield from table.select(there).combine_chunks().to_batches(max_chunksize=_BATCH)


def _read_csv(file: IO[Any]) -> pa.Table:
    # A label may look like a number, and "NA" is a text: only an empty field is null.
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(_TEXTS, pa.string()), null_values=[""], strings_can_be_null=True
    )
    # A name of a file may have line breaks, and Arrow would cut a block at any.
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.read_csv(file, parse_options=parsing, convert_options=options)


def _open(path: str) -> IO[Any]:
    if files.is_remote(path):
        return pa.BufferReader(files.read_bytes(path))
    return open(path, "rb")
