"""One pass over a bulk job's table, shard by shard: distributions, and the few rows worth a look.

The archive report calls it. Memory does not grow with the table: of numbers an even sample is
kept, of rows the places of the best.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from components.bulk_inference import storage
from pipeline.report.page import MissingPartError

_SUFFIXES: Final = {
    "parquet": ".parquet",
    "jsonl": ".jsonl",
    "csv": ".csv",
    "npy": ".index.parquet",
}
"""What the rows of a format are read from."""
_BATCH: Final = 65_536
_MOST_VALUES: Final = 1_000_000
_NUMBERS: Final = ("probability", "outlier_score")
_TEXTS: Final = ("label", "given_label", "verdict")
_NAMES: Final = ("source", "member")

Place = tuple[float, int, int]
"""What rows are ranked by, the larger the better; the shard; the row in it."""


@dataclass
class Row:
    """A row of the table, as far as it has these columns."""

    source: str
    member: str
    label: str | None = None
    given_label: str | None = None
    verdict: str | None = None
    probability: float | None = None
    outlier_score: float | None = None


@dataclass
class Scan:
    """What the table holds.

    Attributes:
        rows: how many.
        values: by column, float32 [n]: an even sample.
        every: it has each so-many-th row.
        given: rows with a label that the archive gives.
        agreeing: of these, rows whose label is the same.
        lists: rows by list: `doubtful`, `strange`, `disagreeing`, and by verdict.
    """

    rows: int = 0
    values: dict[str, np.ndarray] = field(default_factory=dict)
    every: int = 1
    given: int = 0
    agreeing: int = 0
    lists: dict[str, list[Row]] = field(default_factory=dict)


class _Best:
    """The places of the largest values so far."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: list[Place] = []

    def add(
        self, values: np.ndarray, shard: int, first: int, rows: np.ndarray | None = None
    ) -> None:
        """Adds values of consecutive rows, or of `rows` counted from `first`."""
        if len(values) > self._most:
            best = np.argpartition(-values, self._most)[: self._most]
        else:
            best = np.arange(len(values))
        for at in best.tolist():
            row = at if rows is None else int(rows[at])
            self._places.append((float(values[at]), shard, first + row))
        self._places = sorted(self._places, key=lambda place: (-place[0], place[1:]))[: self._most]

    @property
    def places(self) -> list[Place]:
        """The best first."""
        return self._places


def scan_table(
    output: str, files: Sequence[str], table_format: str, *, rows: int, verdicts: dict[str, int],
    listed: dict[str, int],
) -> Scan:  # fmt: skip
    """Reads the table once.

    Args:
        output: The job's folder.
        files: Of the table, relative to it, in order.
        table_format: `bulk.format`.
        rows: How many the table has, by the job's count.
        verdicts: Rows by verdict; for each an even choice is listed.
        listed: Most rows of each list: `doubtful`, `strange`, `disagreeing`, `verdict`.

    Raises:
        MissingPartError: the format cannot be read here.
    """
    if table_format not in _SUFFIXES:
        readable = ", ".join(_SUFFIXES)
        raise MissingPartError(f"The table is {table_format}; rows are shown of {readable} only.")
    shards = [file for file in files if file.endswith(_SUFFIXES[table_format])]
    scan = Scan(every=max(1, -(-rows // _MOST_VALUES)))
    best = {name: _Best(most) for name, most in listed.items() if name != "verdict"}
    chosen = {v: _even(count, listed["verdict"]) for v, count in verdicts.items()}
    picked: dict[str, list[Place]] = {verdict: [] for verdict in verdicts}
    seen = Counter[str]()
    samples: dict[str, list[np.ndarray]] = {}
    for shard, path in enumerate(shards):
        first = 0
        for batch in _batches(posixpath.join(output, path), table_format, (*_NUMBERS, *_TEXTS)):
            columns = {name: batch.column(place) for place, name in enumerate(batch.schema.names)}
            for name in set(_NUMBERS) & columns.keys():
                values = columns[name].to_numpy(zero_copy_only=False)
                offset = -(scan.rows + first) % scan.every
                samples.setdefault(name, []).append(values[offset :: scan.every].astype(np.float32))
            _rank(columns, best, scan, shard, first)
            _choose(columns, chosen, picked, seen, shard, first)
            first += batch.num_rows
        scan.rows += first
    scan.values = {name: np.concatenate(parts) for name, parts in samples.items()}
    places = {name: found.places for name, found in best.items()} | picked
    scan.lists = _fetch(output, shards, table_format, places)
    return scan


def _even(count: int, most: int) -> np.ndarray:
    """Numbers of rows at equal distances."""
    return np.unique(np.linspace(0, max(count - 1, 0), most).astype(int)) if count else np.zeros(0)


def _rank(
    columns: dict[str, pa.Array], best: dict[str, _Best], scan: Scan, shard: int, first: int
) -> None:
    if "probability" not in columns:
        return
    probability = columns["probability"].to_numpy(zero_copy_only=False).astype(np.float64)
    best["doubtful"].add(1.0 - probability, shard, first)
    if "outlier_score" in columns:
        scores = columns["outlier_score"].to_numpy(zero_copy_only=False)
        best["strange"].add(scores, shard, first)
    if "given_label" in columns and "label" in columns:
        labels, names = _codes(columns["label"])
        given, known = _codes(columns["given_label"])
        numbers = {name: number for number, name in enumerate(names)}
        # A label that the model does not know can't agree, and is no disagreement either.
        place = np.array([numbers.get(name, -2) for name in known] + [-1])[given]
        scan.given += int((given >= 0).sum())
        scan.agreeing += int((place == labels)[given >= 0].sum())
        other = np.flatnonzero((place >= 0) & (place != labels))
        best["disagreeing"].add(probability[other], shard, first, other)


def _choose(
    columns: dict[str, pa.Array],
    chosen: dict[str, np.ndarray],
    picked: dict[str, list[Place]],
    seen: Counter[str],
    shard: int,
    first: int,
) -> None:
    if "verdict" not in columns:
        return
    codes, names = _codes(columns["verdict"])
    for number, verdict in enumerate(names):
        rows = np.flatnonzero(codes == number)
        if verdict not in chosen or not len(rows):
            continue
        wanted = chosen[verdict] - seen[verdict]
        inside = wanted[(wanted >= 0) & (wanted < len(rows))].astype(int)
        picked[verdict].extend((0.0, shard, first + int(row)) for row in rows[inside])
        seen[verdict] += len(rows)


def _codes(column: pa.Array) -> tuple[np.ndarray, list[str]]:
    """Strings as numbers, -1 for null, and the strings by number."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return indices.astype(np.int64), encoded.dictionary.to_pylist()


def _batches(path: str, table_format: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of one shard; columns that it does not have are left out."""
    with _open(path) as file:
        if table_format in ("parquet", "npy"):
            shard = pq.ParquetFile(file)
            there = [name for name in columns if name in shard.schema_arrow.names]
            yield from shard.iter_batches(batch_size=_BATCH, columns=there)
            return
        read = pyarrow.json.read_json if table_format == "jsonl" else pyarrow.csv.read_csv
        table = read(file)
        there = [name for name in columns if name in table.schema.names]
        for name in set(_TEXTS) & set(there):
            # Labels that look like numbers were read as numbers, empty ones as nulls.
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, table[name].cast(pa.string()))
        yield from table.select(there).combine_chunks().to_batches(max_chunksize=_BATCH)


def _open(path: str) -> IO[Any]:
    if storage.is_remote(path):
        return pa.BufferReader(storage.read_bytes(path))
    return open(path, "rb")


def _fetch(
    output: str, shards: list[str], table_format: str, places: dict[str, list[Place]]
) -> dict[str, list[Row]]:
    """Reads the rows of the places, each shard once and one at a time."""
    wanted: dict[int, set[int]] = {}
    for listed in places.values():
        for _, shard, row in listed:
            wanted.setdefault(shard, set()).add(row)
    rows: dict[tuple[int, int], Row] = {}
    for shard, numbers in sorted(wanted.items()):
        path = posixpath.join(output, shards[shard])
        first = 0
        left = np.array(sorted(numbers))
        for batch in _batches(path, table_format, (*_NAMES, *_TEXTS, *_NUMBERS)):
            inside = left[(left >= first) & (left < first + batch.num_rows)]
            taken = pa.Table.from_batches([batch]).take(pa.array(inside - first))
            for number, values in zip(inside.tolist(), taken.to_pylist(), strict=True):
                values = {"source": "", "member": "", **values}
                rows[shard, number] = Row(**values)
            first += batch.num_rows
    return {name: [rows[shard, row] for _, shard, row in listed] for name, listed in places.items()}
