"""Reads CSV, JSON Lines and Parquet manifests, which list image paths, labels and splits.

Paths are absolute (including `gs://`) or relative to the manifest's folder.
"""

import csv
import importlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from components.image_sources import files
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.errors import InputError
from components.image_sources.folder import pack_names, read_files, unpack_names
from components.image_sources.naming import SPLIT_NAMES

Row = dict[str, Any]


def plan(path: str, config: InputConfig) -> Iterator[WorkUnit]:
    """Plans units of rows; the manifest is read once, and each unit carries its rows."""
    columns = config.manifest
    names = (columns.path, columns.label, columns.split)
    rows = _rows(path, config)
    first = next(rows, None)
    if first is None:
        return
    if columns.path not in first:
        raise InputError(
            f"{path}: no column {columns.path!r} among {', '.join(map(repr, first))}; name it with"
            " manifest.path"
        )
    rows = chain([first], rows)
    while chunk := list(islice(rows, config.units.members)):
        flat = [_text(row.get(name)) for row in chunk for name in names]
        yield WorkUnit(0, path, "manifest", members=len(chunk), extra=pack_names(flat))


def read(unit: WorkUnit, config: InputConfig) -> Iterator[MemberBatch]:
    """Reads the files that a unit's rows name."""
    flat = unpack_names(unit.extra)
    folder = unit.source.rpartition("/")[0] or "."
    labelled = config.labels.source == "auto"
    refused = MemberBatch(unit.source, names_are_paths=True)
    rows: list[tuple[str, str | None, str | None]] = []
    for name, label, split in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        known = SPLIT_NAMES.get(split.lower())
        if not name:
            refused.refuse("", "bad_record", "a row without a path")
        elif split and known is None:
            refused.refuse(name, "bad_split", f"{split!r} is no split")
        else:
            named = known if config.splits.source == "auto" else None
            rows.append((_full(folder, name), (label or None) if labelled else None, named))
    if refused.rejects:
        yield refused
    yield from read_files(unit.source, rows, config, names_are_paths=True)


def named_files(path: str, config: InputConfig) -> Iterator[str]:
    """Yields the files and objects that a manifest names, for the fingerprint."""
    folder = path.rpartition("/")[0] or "."
    for row in _rows(path, config):
        if name := _text(row.get(config.manifest.path)):
            yield _full(folder, name)


def _full(folder: str, name: str) -> str:
    """Resolves a path relative to the manifest's folder."""
    if files.is_cloud(name) or os.path.isabs(name):
        return name
    return f"{folder}/{name}"


def _text(value: object) -> str:
    """Returns a cell as text; empty if it is missing."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _rows(path: str, config: InputConfig) -> Iterator[Row]:
    """Streams the rows of a manifest.

    Raises:
        InputError: if the manifest is damaged.
    """
    suffix = path.rpartition(".")[2].lower()
    with files.open_stream(path, config.storage) as stream:
        try:
            if suffix == "parquet":
                yield from _parquet(stream, config)
            elif suffix == "csv":
                with io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
                    yield from csv.DictReader(text)
            else:
                with io.TextIOWrapper(stream, "utf-8-sig") as text:
                    yield from _json_lines(path, text)
        except (UnicodeDecodeError, csv.Error, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: not a readable manifest: {error}") from error


def _json_lines(path: str, text: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is no JSON object")
        yield row


def _parquet(stream: Any, config: InputConfig) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if int(pa.__version__.partition(".")[0]) < 14:
        # CVE-2023-47248: reading untrusted data could run code; importing the package fixes it.
        importlib.import_module("pyarrow_hotfix")
    table = pq.ParquetFile(stream)
    columns = config.manifest
    wanted = [
        name
        for name in (columns.path, columns.label, columns.split)
        if name in table.schema_arrow.names
    ]
    if columns.path not in wanted:
        yield dict.fromkeys(table.schema_arrow.names)
        return
    for batch in table.iter_batches(batch_size=config.units.members, columns=wanted):
        yield from batch.to_pylist()
