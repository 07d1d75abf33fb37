"""Writes Arrow rows as Parquet, JSON Lines, CSV, TFRecord or npy, through one interface.

The bulk job and ingest write their tables with it. The caller opens and closes the binary file, and
thereby decides how it is written atomically.
"""

import abc
import csv
import io
from collections.abc import Sequence
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.image_sources.batch import Reject
from components.image_sources.naming import printable
from components.tfrecord_frames import frame
from trainer.errors import InputError
from trainer.json_text import json_text

_ROW_GROUP_BYTES: Final = 64 * 1024 * 1024
"""Bytes of rows buffered before they are written; a bulk unit is usually one row group. Writing
batches of a few hundred rows one by one took two and a half times as long."""


class Sink(abc.ABC):
    """Writes rows to one file.

    Args:
        file: A binary file, open for writing.
        schema: The schema of the rows.
    """

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._file = file

    @abc.abstractmethod
    def write(self, rows: pa.RecordBatch) -> None:
        """Appends rows."""

    def close(self) -> None:  # noqa: B027 (most formats hold nothing back)
        """Writes buffered rows and any footer; leaves the file open."""


class ParquetSink(Sink):
    """Writes Parquet with Zstandard compression and dictionary-encoded repeated strings."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        super().__init__(file, schema)
        self._schema = schema
        repeated = [field.name for field in schema if _is_repeated(field.type)]
        self._writer = pq.ParquetWriter(
            file, schema, compression="zstd", compression_level=1, use_dictionary=repeated
        )
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0

    def write(self, rows: pa.RecordBatch) -> None:
        """Appends the columns of the schema; writes a row group when it is full."""
        if rows.schema.names != self._schema.names:
            columns = [rows.column(rows.schema.get_field_index(n)) for n in self._schema.names]
            rows = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        self._held.append(rows)
        self._held_bytes += rows.nbytes
        if self._held_bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Writes the last row group and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._held:
            # Each batch has its own dictionary, but a row group has only one.
            table = pa.Table.from_batches(self._held, self._schema)
            self._writer.write_table(table.unify_dictionaries().combine_chunks())
        self._held, self._held_bytes = [], 0


class JsonLinesSink(Sink):
    """Writes one JSON object per line, UTF-8, with keys in the order of the columns.

    Numbers that are not finite become null.
    """

    def write(self, rows: pa.RecordBatch) -> None:
        """Appends lines."""
        lines = (json_text(row, ensure_ascii=False) + "\n" for row in rows.to_pylist())
        self._file.write("".join(lines).encode())


class CsvSink(Sink):
    """Writes CSV (RFC 4180, UTF-8, with a header line); vectors are JSON lists in one field."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        super().__init__(file, schema)
        self._write_lines([schema.names])

    def write(self, rows: pa.RecordBatch) -> None:
        """Appends lines."""
        columns = [[_as_field(value) for value in column.to_pylist()] for column in rows.columns]
        self._write_lines(list(zip(*columns, strict=True)))

    def _write_lines(self, lines: list[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerows(lines)
        self._file.write(text.getvalue().encode())


class TFRecordSink(Sink):
    """Writes TFRecords of tf.Examples with one feature per column; nulls are omitted."""

    def write(self, rows: pa.RecordBatch) -> None:
        """Appends records."""
        self._file.write(frame(_example(row) for row in rows.to_pylist()))


class NpySink(Sink):
    """Writes embeddings as one float32 array [rows, d]; a separate index holds the keys."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        if "embedding" not in schema.names:
            raise InputError("bulk.format npy needs the column `embedding`")
        super().__init__(file, schema)
        self._width = schema.field("embedding").type.list_size
        self._parts: list[np.ndarray] = []

    def write(self, rows: pa.RecordBatch) -> None:
        """Buffers the embeddings, because the file's header states their number."""
        values = rows.column(rows.schema.get_field_index("embedding")).flatten()
        self._parts.append(np.asarray(values).reshape(-1, self._width))

    def close(self) -> None:
        """Writes the array."""
        parts = self._parts or [np.zeros((0, self._width), np.float32)]
        np.lib.format.write_array(self._file, np.concatenate(parts), allow_pickle=False)


SINKS: Final[dict[str, type[Sink]]] = {
    "parquet": ParquetSink,
    "jsonl": JsonLinesSink,
    "csv": CsvSink,
    "tfrecord": TFRecordSink,
    "npy": NpySink,
}
"""Sink classes by `bulk.format`."""


def _is_repeated(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind)


def _as_field(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list):
        return json_text(value, ensure_ascii=False)
    return repr(value) if isinstance(value, float) else value


def _example(row: dict[str, Any]) -> bytes:
    import tensorflow as tf

    features = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not values:
            continue
        if isinstance(values[0], str):
            content = [text.encode() for text in values]
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=content))
        elif isinstance(values[0], int):
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString(deterministic=True))


REJECT_SCHEMA: Final = pa.schema([(name, pa.string()) for name in Reject._fields])
"""Columns of the rejects tables of ingest and of the bulk job."""


def parquet_table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> bytes:
    """Returns rows as a Parquet file; a character that is not UTF-8 is replaced.

    Args:
        rows: The rows, with values in the order of the columns.
        schema: The columns.
    """
    arrays = [
        pa.array([printable(v) if isinstance(v, str) else v for v in values], column.type)
        for column, values in zip(schema, zip(*rows, strict=True), strict=True)
    ]
    file = io.BytesIO()
    sink = ParquetSink(file, schema)
    sink.write(pa.record_batch(arrays, schema=schema))
    sink.close()
    return file.getvalue()
