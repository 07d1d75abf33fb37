"""Reads CSV, TSV, JSON Lines and Parquet manifests, which list image paths, labels and splits.

Paths are absolute (including `gs://` and `s3://`) or relative to the manifest's folder. Text may be
gzipped, in UTF-8 or UTF-16, with any usual delimiter.
"""

import codecs
import csv
import gzip
import io
import os
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final

from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.folder import (
    FolderReader,
    file_version,
    pack_names,
    unpack_names,
)
from components.image_sources.label_values import (
    LabelValueError,
    UnnamedNumberError,
    read_label,
)
from components.image_sources.magic_numbers import GZIP_START
from components.image_sources.naming import escaped, find_column, split_of_value
from components.image_sources.origins import note_unread
from components.image_sources.record_config import VALUE, ManifestConfig
from components.image_sources.text_rows import csv_rows, holds_rows, json_rows
from components.parquet_files import open_untrusted, row_batches
from trainer.errors import InputError
from trainer.name_lists import named
from trainer.storage import files

Row = Mapping[str | None, Any]

_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ADDRESS: Final = re.compile(r"(?!gs:|s3:|minio:|file:)[A-Za-z][A-Za-z0-9+.-]*:(//|[\\/])")
"""Addresses on the web and paths with a drive; addresses in a store and `file://` are read."""
_COLUMNS: Final = ("path", "label", "split")
_FIELDS: Final = 4
"""Texts per row in a work unit: path, label, split, and why the label is none."""
_PIXELS: Final = re.compile(r"pixels|pixel_?\d+", re.IGNORECASE)
"""Columns of data sets that are tables of pixels, such as Kaggle's of MNIST and FER-2013."""
_COLUMNS_NAMED: Final = 20
"""Largest number of columns in an error message."""


class ManifestReader(Reader):
    """Reads the images that a manifest names."""

    _unread = ""
    """Columns of the manifest that is being planned, if none is that of labels and one may be."""

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans units of rows; the manifest is read once, and each unit carries its rows.

        Raises:
            InputError: if all rows name images on the web, or on a drive of Windows.
        """
        rows = self._named_rows(path)
        is_text = _base_suffix(path) in ("csv", "tsv")
        numbered = enumerate(rows, 1)
        first, all_elsewhere = "", True
        while chunk := list(islice(numbered, self.config.units.members)):
            flat: list[str] = []
            for number, (name, label, split) in chunk:
                where = f"{path}: row {number}"
                flat += [
                    self._path(name, where),
                    *self._label(
                        label, f"{where}, {self.config.manifest.label!r}", is_text=is_text
                    ),
                    _text(split, f"{where}, {self.config.manifest.split!r}"),
                ]
            first = first or flat[0]
            all_elsewhere = all_elsewhere and all(map(_ADDRESS.match, flat[::_FIELDS]))
            extra = pack_names(flat)
            yield WorkUnit(
                0, path, "manifest", members=len(chunk), extra=extra, unread=self._unread
            )
        if first and all_elsewhere:
            raise InputError(
                f"{path}: {first!r} and the other paths are addresses or have a drive; copy the"
                " images to this machine and name them relative to the manifest"
            )

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads the files that a unit's rows name."""
        flat = unpack_names(unit.extra)
        folder = unit.source.rpartition("/")[0] or "."
        labelled = self.config.labels.source == "auto"
        refused = MemberBatch(unit.source, names_are_paths=True)
        rows: list[tuple[str, str | None, str | None]] = []
        for at in range(0, len(flat), _FIELDS):
            name, label, fault, split = flat[at : at + _FIELDS]
            known = split_of_value(split) if split else None
            if not name:
                refused.refuse("", "bad_record", "a row without a path")
            elif _ADDRESS.match(name):
                refused.refuse(
                    name, "missing", "an address or a drive; give a path on this machine"
                )
            elif split and known is None:
                refused.refuse(name, "bad_split", f"{split!r} is no split")
            elif fault and labelled and self.refuses_labels:
                refused.refuse(name, "bad_label", fault)
            else:
                named = known if self.config.splits.source == "auto" else None
                rows.append((_full(folder, name), (label or None) if labelled else None, named))
        if refused.rejects:
            yield refused
        for batch in FolderReader(self.config).read_files(unit.source, rows, names_are_paths=True):
            note_unread(batch, unit.unread if labelled else "")
            if self.config.manifest.pattern == VALUE:
                batch.rejects = list(map(_with_hint, batch.rejects))
            yield batch

    def version(self, unit: WorkUnit) -> bytes:
        """Returns the manifest's version, and that of each file of this machine that it names.

        As with folders, objects count with their names only.
        """
        folder = unit.source.rpartition("/")[0] or "."
        names = filter(None, unpack_names(unit.extra)[::_FIELDS])
        paths = [_full(folder, name) for name in names if not _ADDRESS.match(name)]
        facts = [file_version(path) for path in paths if not files.is_remote(path)]
        return super().version(unit) + "\0".join(("", *facts)).encode()

    def named_files(self, path: str) -> Iterator[str]:
        """Yields the files and objects that a manifest names, for the fingerprint."""
        folder = path.rpartition("/")[0] or "."
        for number, (value, _, _) in enumerate(self._named_rows(path), 1):
            name = self._path(value, f"{path}: row {number}")
            if name and not _ADDRESS.match(name):
                yield _full(folder, name)

    def _path(self, value: Any, where: str) -> str:
        """Returns the path that a cell stands for; empty if the cell is.

        Raises:
            InputError: if it is a list or an object.
        """
        text = _text(value, f"{where}, {self.config.manifest.path!r}")
        return text and self.config.manifest.pattern.replace(VALUE, text)

    def _label(self, value: Any, where: str, *, is_text: bool) -> tuple[str, str]:
        """Returns the label, or why a number is none.

        Raises:
            InputError: if it is a list or an object.
        """
        try:
            return read_label(value, self.config.labels.names, is_text=is_text) or "", ""
        except UnnamedNumberError as error:
            return "", str(error)
        except LabelValueError as error:
            raise InputError(
                f"{where}: {error}; name a column of labels, manifest.label"
            ) from error

    def _named_rows(self, path: str) -> Iterator[tuple[Any, Any, Any]]:
        """Streams path, label and split of each row.

        Raises:
            InputError: if the manifest is damaged, or lacks a column that it must have.
        """
        rows = self._rows(path)
        first = next(rows, None)
        if first is None:
            return
        name, label, split = (self._column(path, option, first) for option in _COLUMNS)
        others = {each for each in first if isinstance(each, str)} - {name, split}
        if label is None and others:
            known = named(map(repr, filter(None, first)), most=_COLUMNS_NAMED)
            self._unread = (
                f"no column {self.config.manifest.label!r} among {known}; name it with"
                " manifest.label"
            )
        is_text = _base_suffix(path) in ("csv", "tsv")
        for number, row in enumerate(chain([first], rows), 1):
            values = row.get(name), row.get(label), row.get(split)
            for value in values:
                if not isinstance(value, str):
                    continue
                if "\0" in value:
                    raise InputError(
                        f"{path}: row {number} holds NUL bytes; the manifest is damaged, copy it"
                        " again"
                    )
                if is_text and holds_rows(value, len(row)):
                    begin = escaped(value.partition("\n")[0].strip())
                    raise InputError(
                        f"{path}: row {number}, '{begin}', goes on over other rows: a quotation"
                        " mark is not closed; double it, or remove it"
                    )
            yield values

    def _column(self, path: str, option: str, row: Row) -> str | None:
        """Finds a column by its name, whatever its case and the spaces around it.

        Raises:
            InputError: if it is missing and must be there: the paths, or any that is configured.
        """
        wanted = getattr(self.config.manifest, option)
        names = [name for name in row if isinstance(name, str)]
        if (found := find_column(names, wanted)) is not None:
            return found
        if option == "path" or wanted != getattr(ManifestConfig(), option):
            if option == "path" and (pixels := next(filter(_PIXELS.fullmatch, names), None)):
                raise InputError(
                    f"{path}: no column {wanted!r}, but {pixels!r}: a table of pixels cannot be"
                    " read; save each row as an image file in a folder of its class"
                )
            known = named(map(repr, names), most=_COLUMNS_NAMED)
            raise InputError(
                f"{path}: no column {wanted!r} among {known}; name it with manifest.{option}"
            )
        return None

    def _rows(self, path: str) -> Iterator[Row]:
        """Streams the rows of a manifest.

        Raises:
            InputError: if the manifest is damaged.
        """
        suffix = _base_suffix(path)
        with files.open_stream(path, self.config.storage) as raw:
            try:
                if suffix == "parquet":
                    yield from self._parquet(raw)
                    return
                stream: Any = raw
                if stream.peek(2).startswith(GZIP_START):
                    packed: Any = gzip.GzipFile(fileobj=raw)
                    stream = io.BufferedReader(packed)
                encoding = "utf-16" if stream.peek(2)[:2] in _MARKS else "utf-8-sig"
                with io.TextIOWrapper(stream, encoding, newline="") as text:
                    if suffix in ("jsonl", "ndjson"):
                        yield from json_rows(path, text)
                    else:
                        yield from csv_rows(path, text, suffix)
            except (
                UnicodeDecodeError,
                csv.Error,
                EOFError,
                OSError,
                ValueError,
                zlib.error,
            ) as error:
                if isinstance(error, InputError):
                    raise
                if isinstance(error, UnicodeDecodeError):
                    raise InputError(
                        f"{path}: not a readable manifest: {error}; save it as UTF-8"
                    ) from error
                damage = EOFError | zlib.error | gzip.BadGzipFile
                is_damaged = suffix == "parquet" or isinstance(error, damage)
                advice = "; copy it again" if is_damaged else ""
                fault = str(error).partition("\n")[0]
                raise InputError(f"{path}: not a readable manifest: {fault}{advice}") from error

    def _parquet(self, stream: Any) -> Iterator[Row]:
        table = open_untrusted(stream)
        named = [
            name
            for name in table.schema_arrow.names
            if name.strip().casefold()
            in {getattr(self.config.manifest, option).strip().casefold() for option in _COLUMNS}
        ]
        if not named:
            yield dict.fromkeys(table.schema_arrow.names)
            return
        # The first row has all columns, so that a message can list them.
        others = dict.fromkeys(table.schema_arrow.names)
        for batch in row_batches(table, batch_size=self.config.units.members, columns=named):
            for row in batch.to_pylist():
                yield {**others, **row}
                others = {}


def _with_hint(reject: Reject) -> Reject:
    """Says of a missing file without suffix what completes its name."""
    if reject.reason != "missing" or "." in reject.member.rpartition("/")[2]:
        return reject
    return reject._replace(
        detail=f"{reject.detail}; if it has a suffix, set manifest.pattern, as train/{VALUE}.jpg"
    )


def _full(folder: str, name: str) -> str:
    """Resolves a path relative to the manifest's folder; it may be written as on Windows."""
    name = name.removeprefix("file://")
    if files.is_remote(name):
        return name
    full = name if os.path.isabs(name) else f"{folder}/{name}"
    if "\\" in name and not os.path.lexists(full):
        name = name.replace("\\", "/")
        full = name if os.path.isabs(name) else f"{folder}/{name}"
    if not full.isascii() and not os.path.lexists(full):
        # macOS decomposes the names of files, and other programs compose what they write.
        forms = (unicodedata.normalize(form, full) for form in ("NFC", "NFD"))
        full = next(filter(os.path.lexists, forms), full)
    return full


def _text(value: Any, where: str) -> str:
    """Returns a cell as text; empty if it is missing.

    Raises:
        InputError: if it is a list or an object.
    """
    try:
        return read_label(value) or ""
    except LabelValueError as error:
        raise InputError(f"{where}: {str(error).replace('label', 'text')}") from error


def _base_suffix(path: str) -> str:
    """Returns the suffix in lower case, without that of gzip."""
    return path.lower().removesuffix(".gz").rpartition(".")[2]
