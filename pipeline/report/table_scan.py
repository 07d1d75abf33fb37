"""Scans a bulk job's table once, shard by shard, for distributions and the rows to list.

The archive report calls it. Memory use does not grow with the table: the scan keeps an evenly
spaced sample of the values and the positions of the best rows.
"""

import posixpath
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.bulk_inference.output.table_rows import SHARD_SUFFIXES, shard_rows
from pipeline.report.page import MissingPartError

_MOST_VALUES: Final = 1_000_000
_NUMBERS: Final = ("probability", "outlier_score")
_TEXTS: Final = ("label", "given_label", "verdict")
_NAMES: Final = ("source", "member")
_FINDINGS: Final = "findings"

Place = tuple[float, int, int]
"""The value that rows are ranked by (larger is better), the shard, and the row in the shard."""


@dataclass
class Row:
    """A row of the table, with those of these columns that the table has."""

    source: str
    member: str
    label: str | None = None
    given_label: str | None = None
    verdict: str | None = None
    probability: float | None = None
    outlier_score: float | None = None


@dataclass
class Scan:
    """The result of a scan.

    Attributes:
        rows: number of rows.
        values: evenly spaced sample of each column, float32 [n].
        every: step between sampled rows.
        given: number of rows with a label given by the archive.
        unknown: number of these rows whose given label is no class of the model.
        agreeing: number of these rows whose predicted label is the same.
        lists: rows by list: `doubtful`, `outlying`, `disagreeing`, and by verdict and finding.
    """

    rows: int = 0
    values: dict[str, np.ndarray] = field(default_factory=dict)
    every: int = 1
    given: int = 0
    unknown: int = 0
    agreeing: int = 0
    lists: dict[str, list[Row]] = field(default_factory=dict)


class _Best:
    """Keeps the positions of the largest values so far."""

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
        """Returns the positions, best first."""
        return self._places


def scan_table(
    output: str, files: Sequence[str], table_format: str, *, rows: int, groups: dict[str, int],
    listed: dict[str, int], classes: Collection[str],
) -> Scan:  # fmt: skip
    """Reads the table once.

    Args:
        output: The output folder of the job.
        files: Files of the table in order, relative to the folder.
        table_format: `bulk.format`.
        rows: Number of rows of the table, according to the job.
        groups: Number of rows by verdict and by finding, of each of which evenly spaced rows are
            listed.
        listed: Maximum number of rows per list: `doubtful`, `outlying`, `disagreeing`, `group`.
        classes: The model's classes.

    Raises:
        MissingPartError: the format cannot be read here.
    """
    if table_format not in SHARD_SUFFIXES:
        readable = ", ".join(SHARD_SUFFIXES)
        raise MissingPartError(f"The table is {table_format}; rows are shown of {readable} only.")
    shards = [file for file in files if file.endswith(SHARD_SUFFIXES[table_format])]
    scan = Scan(every=max(1, -(-rows // _MOST_VALUES)))
    best = {name: _Best(most) for name, most in listed.items() if name != "group"}
    chosen = {name: _even(count, listed["group"]) for name, count in groups.items()}
    picked: dict[str, list[Place]] = {name: [] for name in groups}
    seen = Counter[str]()
    samples: dict[str, list[np.ndarray]] = {}
    for shard, path in enumerate(shards):
        first = 0
        wanted = (*_NUMBERS, *_TEXTS, _FINDINGS)
        for batch in shard_rows(posixpath.join(output, path), table_format, wanted):
            columns = {name: batch.column(place) for place, name in enumerate(batch.schema.names)}
            for name in set(_NUMBERS) & columns.keys():
                values = columns[name].to_numpy(zero_copy_only=False)
                offset = -(scan.rows + first) % scan.every
                samples.setdefault(name, []).append(values[offset :: scan.every].astype(np.float32))
            _rank(columns, best, scan, shard, first, classes)
            _choose(columns, chosen, picked, seen, shard, first)
            first += batch.num_rows
        scan.rows += first
    scan.values = {name: np.concatenate(parts) for name, parts in samples.items()}
    places = {name: found.places for name, found in best.items()} | picked
    scan.lists = _fetch(output, shards, table_format, places)
    return scan


def _even(count: int, most: int) -> np.ndarray:
    """Returns indices of rows at equal distances."""
    return np.unique(np.linspace(0, max(count - 1, 0), most).astype(int)) if count else np.zeros(0)


def _rank(
    columns: dict[str, pa.Array],
    best: dict[str, _Best],
    scan: Scan,
    shard: int,
    first: int,
    classes: Collection[str],
) -> None:
    if "probability" not in columns:
        return
    probability = columns["probability"].to_numpy(zero_copy_only=False).astype(np.float64)
    best["doubtful"].add(1.0 - probability, shard, first)
    if "outlier_score" in columns:
        scores = columns["outlier_score"].to_numpy(zero_copy_only=False)
        best["outlying"].add(scores, shard, first)
    if "given_label" in columns and "label" in columns:
        labels, names = _codes(columns["label"])
        given, known = _codes(columns["given_label"])
        numbers = {name: number for number, name in enumerate(names)}
        # A label that the model does not know is neither an agreement nor a disagreement.
        place = np.array([numbers.get(name, -2) for name in known] + [-1])[given]
        scan.given += int((given >= 0).sum())
        is_class = np.array([name in classes for name in known] + [False])[given]
        scan.unknown += int(((given >= 0) & ~is_class).sum())
        scan.agreeing += int((place == labels)[given >= 0].sum())
        other = np.flatnonzero(is_class & (place != labels))
        best["disagreeing"].add(probability[other], shard, first, other)


def _choose(
    columns: dict[str, pa.Array],
    chosen: dict[str, np.ndarray],
    picked: dict[str, list[Place]],
    seen: Counter[str],
    shard: int,
    first: int,
) -> None:
    for places, codes, names in _grouped(columns):
        for number, name in enumerate(names):
            rows = places[codes == number]
            if name not in chosen or not len(rows):
                continue
            wanted = chosen[name] - seen[name]
            inside = wanted[(wanted >= 0) & (wanted < len(rows))].astype(int)
            picked[name].extend((0.0, shard, first + int(row)) for row in rows[inside])
            seen[name] += len(rows)


def _grouped(columns: dict[str, pa.Array]) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Yields rows, the numbers of the groups that they are in, and the names of these groups."""
    if "verdict" in columns:
        codes, names = _codes(columns["verdict"])
        yield np.arange(len(codes)), codes, names
    found = columns.get(_FINDINGS)
    # CSV has texts there.
    if found is not None and pa.types.is_list(found.type):
        yield pc.list_parent_indices(found).to_numpy(), *_codes(found.flatten())


def _codes(column: pa.Array) -> tuple[np.ndarray, list[str]]:
    """Encodes strings as integers, -1 for null, and returns them with the strings by code."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return indices.astype(np.int64), encoded.dictionary.to_pylist()


def _fetch(
    output: str, shards: list[str], table_format: str, places: dict[str, list[Place]]
) -> dict[str, list[Row]]:
    """Reads the rows at the positions, one shard at a time and each shard once."""
    wanted: dict[int, set[int]] = {}
    for listed in places.values():
        for _, shard, row in listed:
            wanted.setdefault(shard, set()).add(row)
    rows: dict[tuple[int, int], Row] = {}
    for shard, numbers in sorted(wanted.items()):
        path = posixpath.join(output, shards[shard])
        first = 0
        left = np.array(sorted(numbers))
        for batch in shard_rows(path, table_format, (*_NAMES, *_TEXTS, *_NUMBERS)):
            inside = left[(left >= first) & (left < first + batch.num_rows)]
            taken = pa.Table.from_batches([batch]).take(pa.array(inside - first))
            for number, values in zip(inside.tolist(), taken.to_pylist(), strict=True):
                values = {"source": "", "member": "", **values}
                rows[shard, number] = Row(**values)
            first += batch.num_rows
    return {name: [rows[shard, row] for _, shard, row in listed] for name, listed in places.items()}
