"""Reuses rows of an earlier version of an archive instead of annotating members again.

An archive that grew is divided into new units, but unchanged members keep their rows. Workers
look them up by name and SHA-256.
"""

import posixpath
import threading
from functools import lru_cache
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.bulk_inference.annotation.schema import texts
from components.image_sources.batch import MemberBatch
from trainer.storage import files

NEEDED_COLUMNS: Final = frozenset({"member", "sha256"})
"""Columns that a table must have to be reused."""

Place = tuple[str, int]
"""Shard, and row number in it."""


class EarlierRows:
    """Finds rows in the shards of units that are no longer planned.

    Args:
        output: The job's output folder.
        shards: Paths of the shards relative to `output`; may be empty.
    """

    def __init__(self, output: str, shards: tuple[str, ...]) -> None:
        self._paths = [posixpath.join(output, shard) for shard in shards]

    def find(
        self, batch: MemberBatch, digests: list[bytes], skip: frozenset[int]
    ) -> dict[int, Place]:
        """Finds the earlier rows of a batch's members.

        Args:
            batch: A batch of a source.
            digests: SHA-256 of each member.
            skip: Positions to skip.

        Returns:
            The places of the rows, by position in the batch.
        """
        if not self._paths:
            return {}
        known = _index(tuple(self._paths))
        found = {}
        for at, (name, digest) in enumerate(zip(batch.names, digests, strict=True)):
            place = known.get((name, digest))
            if place is not None and at not in skip:
                found[at] = place
        return found

    def take(
        self, batch: MemberBatch, places: dict[int, Place], schema: pa.Schema
    ) -> pa.RecordBatch:
        """Copies earlier rows, with the labels that the source gives now, and where it is now.

        The archive may have been moved, or another one of the same name has had the image before.

        Args:
            batch: The batch.
            places: The result of `find`.
            schema: The schema of the table.
        """
        parts: list[pa.Table] = []
        order: list[int] = []
        for shard in sorted({shard for shard, _ in places.values()}):
            chosen = {at: row for at, (path, row) in places.items() if path == shard}
            parts.append(_read(shard).take(pa.array(list(chosen.values()))))
            order.extend(chosen)
        table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
        back = sorted(range(len(order)), key=lambda i: list(places).index(order[i]))
        table = table.take(pa.array(back)).combine_chunks()
        keys = batch.keys
        now = {
            "key": texts([keys[at] for at in places]),
            "source": texts([batch.source] * len(places)),
            "given_label": pa.array([batch.labels[at] for at in places], pa.string()),
        }
        for name in now.keys() & set(table.schema.names):
            field = schema.field(name)
            is_few = pa.types.is_dictionary(field.type)
            column = now[name].dictionary_encode() if is_few else now[name]
            table = table.set_column(table.schema.get_field_index(name), field, column)
        return table.cast(schema).to_batches()[0]


_LOCK: Final = threading.Lock()


def _index(paths: tuple[str, ...]) -> dict[tuple[str, bytes], Place]:
    with _LOCK:
        return _build_index(paths)


@lru_cache(maxsize=1)
def _build_index(paths: tuple[str, ...]) -> dict[tuple[str, bytes], Place]:
    index: dict[tuple[str, bytes], Place] = {}
    for path in paths:
        table = _open(path).read(columns=["member", "sha256"])
        members, digests = table["member"].to_pylist(), table["sha256"].to_pylist()
        for row, (name, digest) in enumerate(zip(members, digests, strict=True)):
            index[name, bytes.fromhex(digest)] = (path, row)
    return index


@lru_cache(maxsize=4)
def _read(path: str) -> pa.Table:
    return _open(path).read()


def _open(path: str) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(files.read_bytes(path)))
