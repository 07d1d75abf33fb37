"""Reads images from a column of Parquet files, as Hugging Face's data sets hold them.

`locate.py` asks it which Parquet files hold images; all others are manifests, which name them.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.label_values import LabelValueError, read_record_label
from components.image_sources.magic_numbers import IMAGE_STARTS
from components.image_sources.naming import PathNaming, find_column, split_of_value
from components.image_sources.origins import note_unread
from components.image_sources.tar import BATCH_BYTES
from components.parquet_files import open_untrusted, row_batches
from trainer.errors import InputError
from trainer.name_lists import named
from trainer.storage import files

_BYTES: Final = "bytes"
_PATH: Final = "path"
"""Fields of Hugging Face's Image feature, a struct."""
_LABEL: Final = "label"
_NO_VALUE: Final = "__HIVE_DEFAULT_PARTITION__"
"""Stands for null in the name of a folder of Spark or Hive."""
_NAMED: Final = 20
"""Most columns in a message."""
_METADATA: Final = b"huggingface"
"""Key of the file's metadata that describes the columns, as JSON."""


class _Columns(NamedTuple):
    image: str
    label: str | None
    filename: str | None
    split: str | None
    names: tuple[str, ...]
    """Class names by number."""
    folder_label: str | None = None
    """The label of all rows, by the folder of the file, as `label=cat`; empty for null."""
    has_paths: bool = False
    """Whether folders name classes and splits, as in archives."""
    unread: str = ""
    """Says which columns there are, if none is that of labels and one may be."""

    @property
    def read(self) -> list[str]:
        return [name for name in self[:4] if name is not None]


class ParquetReader(Reader):
    """Reads the images of a Parquet file."""

    def holds_images(self, path: str) -> bool:
        """Returns whether a file holds images, and not paths of images.

        A struct with the field `bytes` is a column of images. A plain column of bytes is one if
        there is no column of paths, or if it holds image files, as in tables of Spark's source
        `binaryFile`.

        Raises:
            StorageError: if the file cannot be read.
        """
        try:
            with self._open(path) as file:
                schema = file.schema_arrow
                if self.config.parquet.image or any(_has_bytes(field.type) for field in schema):
                    return True
                plain = [field.name for field in schema if _is_binary(field.type)]
                if find_column(schema.names, self.config.manifest.path) is None:
                    return bool(plain)
                return any(_starts_like_image(file, column) for column in plain)
        except InputError:
            return False

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans units of whole row groups, with the name of the column of labels as `extra`.

        A row group is the least that can be read by itself.

        Raises:
            InputError: if the file is damaged, or lacks a column that it must have.
        """
        with self._open(path) as file:
            columns = self._columns(path, file.schema_arrow)
            label = columns.label or (_LABEL if columns.folder_label is not None else "")
            units = self.config.units
            start = stop = size = 0
            for group in map(file.metadata.row_group, range(file.num_row_groups)):
                stop += group.num_rows
                size += group.total_byte_size
                if stop - start >= units.members or size >= units.max_bytes:
                    yield WorkUnit(
                        0, path, "parquet", start, stop, stop - start, extra=label.encode()
                    )
                    start, size = stop, 0
            if stop > start:
                yield WorkUnit(0, path, "parquet", start, stop, stop - start, extra=label.encode())

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads the rows of a unit."""
        with self._open(unit.source) as file:
            columns = self._columns(unit.source, file.schema_arrow)
            groups, size, first = [], 0, 0
            for index in range(file.num_row_groups):
                group = file.metadata.row_group(index)
                if unit.start <= first < unit.stop and group.num_rows:
                    groups.append(index)
                    size += group.total_byte_size
                first += group.num_rows
            mean = max(1, size // (unit.stop - unit.start))
            row = unit.start
            for rows in row_batches(
                file,
                batch_size=max(1, min(self.config.units.batch, BATCH_BYTES // mean)),
                columns=columns.read,
                groups=groups,
            ):
                yield self._batch(unit, rows, row, columns)
                row += rows.num_rows

    def _batch(
        self, unit: WorkUnit, rows: pa.RecordBatch, first: int, columns: _Columns
    ) -> MemberBatch:
        batch = MemberBatch(unit.source)
        images, paths = _images(rows.column(columns.image))
        names = _values(rows, columns.filename) or paths
        labels = _values(rows, columns.label)
        if columns.folder_label is not None:
            labels = [columns.folder_label or None] * rows.num_rows
        splits = _values(rows, columns.split)
        limit = self.config.limits.max_bytes
        naming = PathNaming(self.config, unit.split) if columns.has_paths else None
        for at, data in enumerate(images):
            name = f"{first + at:08d}"
            if names and names[at]:
                name += f"/{_as_text(names[at])}"
            split = unit.split
            place = None
            if naming and names[at]:
                place = naming.place(_as_text(names[at]))
                split = split if splits else place.split
            if splits and splits[at] not in (None, ""):
                split = split_of_value(_as_text(splits[at]))
                if split is None:
                    batch.refuse(name, "bad_split", f"{_as_text(splits[at])!r} is no split")
                    continue
            if data is None:
                fault = f"no bytes under {columns.image!r}"
                if paths and paths[at]:
                    fault += ", only a path: save the data set with its images, or list them in a"
                    fault += " manifest"
                batch.refuse(name, "bad_record", fault)
                continue
            if len(data) > limit:
                batch.refuse(name, "too_large", f"{len(data)} bytes; limits.max_bytes is {limit}")
                continue
            label = place.label if place else None
            if labels:
                try:
                    label = read_record_label(labels[at], columns.names)
                except LabelValueError as error:
                    if self.refuses_labels:
                        batch.refuse(name, "bad_label", str(error))
                        continue
            batch.add(name, data, label, split)
        note_unread(batch, columns.unread)
        return batch

    def _columns(self, path: str, schema: pa.Schema) -> _Columns:
        """Finds the columns.

        Raises:
            InputError: if one that is configured is missing, or it is not clear which one is meant.
        """
        image = self._image_column(path, schema)
        described = _described(schema)
        label, folder_label = None, None
        if self.config.labels.source == "auto":
            wanted = self.config.parquet.label or _LABEL
            label = find_column(schema.names, wanted)
            folder_label = None if label else _value_of_folder(path, wanted)
            if not label and folder_label is None:
                label = self._find(path, schema, "label")
                label = label or self._only_classes(path, list(described))
        by_names = self.config.splits.source == "auto"
        filename = self._find(path, schema, "filename")
        if not filename and _is_binary(schema.field(image).type):
            filename = find_column(schema.names, self.config.manifest.path)
        columns = _Columns(
            image=image,
            label=label,
            filename=filename,
            split=self._find(path, schema, "split") if by_names else None,
            names=self.config.labels.names_beside(described.get(label, ()) if label else ()),
            folder_label=folder_label,
            has_paths=bool(filename and not label and folder_label is None),
        )
        known = named(map(repr, schema.names), most=_NAMED)
        unread = f"no column {_LABEL!r} among {known}; name it with parquet.label"
        is_meant = self.config.labels.source == "auto" and not label and folder_label is None
        has_others = len(schema.names) > len(columns.read)
        return columns._replace(unread=unread if is_meant and has_others else "")

    def _image_column(self, path: str, schema: pa.Schema) -> str:
        if found := self._find(path, schema, "image"):
            kind = schema.field(found).type
            if not _is_binary(kind) and not _has_bytes(kind):
                raise InputError(
                    f"{path}: column {found!r} of parquet.image holds {kind}, and no bytes; name"
                    " the column of image files"
                )
            return found
        for is_one in (_has_bytes, _is_binary):
            names = [field.name for field in schema if is_one(field.type)]
            if len(names) > 1:
                raise InputError(
                    f"{path}: columns {', '.join(map(repr, names))} hold bytes; name that of the"
                    " images with parquet.image"
                )
            if names:
                return names[0]
        raise InputError(
            f"{path}: no column holds bytes, among {', '.join(map(repr, schema.names))}; a file of"
            " paths needs format: manifest"
        )

    def _find(self, path: str, schema: pa.Schema, option: str) -> str | None:
        """Finds the column of an option; None if the option is empty."""
        wanted = getattr(self.config.parquet, option)
        if not wanted:
            return None
        found = find_column(schema.names, wanted)
        if found is None:
            raise InputError(
                f"{path}: no column {wanted!r} among {', '.join(map(repr, schema.names))}; name it"
                f" with parquet.{option}"
            )
        return found

    def _only_classes(self, path: str, columns: list[str]) -> str | None:
        """Returns the only column of classes; None if there is none.

        Raises:
            InputError: if there are several, and labels are needed.
        """
        if len(columns) > 1 and self.refuses_labels:
            raise InputError(
                f"{path}: columns {', '.join(map(repr, columns))} hold classes; name one of them"
                " with parquet.label"
            )
        return columns[0] if len(columns) == 1 else None

    @contextmanager
    def _open(self, path: str) -> Iterator[pq.ParquetFile]:
        with files.open_stream(path, self.config.storage) as stream:
            try:
                yield open_untrusted(stream)
            except InputError:
                raise
            except (pa.ArrowException, OSError) as error:
                fault = str(error).partition("\n")[0]
                raise InputError(
                    f"{path}: not a readable Parquet file: {fault}; copy it again"
                ) from error


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _has_bytes(kind: pa.DataType) -> bool:
    """Returns whether a type is that of Hugging Face's images."""
    if not pa.types.is_struct(kind):
        return False
    at = kind.get_field_index(_BYTES)
    return at >= 0 and _is_binary(kind[at].type)


def _value_of_folder(path: str, column: str) -> str | None:
    """Returns the value of a column by which a table is divided into folders: `label=a%20b/...`.

    It is empty for null, and None if no folder names the column.
    """
    for part in reversed(path.split("/")[:-1]):
        name, _, value = part.partition("=")
        if value and find_column([name], column):
            return "" if value == _NO_VALUE else unquote(value)
    return None


def _starts_like_image(file: pq.ParquetFile, column: str) -> bool:
    """Returns whether the first value of a column of bytes is an image file."""
    rows = row_batches(file, batch_size=1, columns=[column])
    values = (row.column(0)[0].as_py() for row in rows if row.num_rows)
    return (next((value for value in values if value), None) or b"").startswith(IMAGE_STARTS)


def _images(column: pa.Array) -> tuple[list[bytes | None], list[Any]]:
    """Returns the bytes of each image, and the paths beside them; empty if there are none."""
    if not pa.types.is_struct(column.type):
        return column.to_pylist(), []
    # `flatten` makes the fields of a missing struct missing, too.
    fields = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
    return fields[_BYTES].to_pylist(), fields[_PATH].to_pylist() if _PATH in fields else []


def _values(rows: pa.RecordBatch, column: str | None) -> list[Any]:
    return rows.column(column).to_pylist() if column else []


def _described(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Returns the class names of each column that Hugging Face's metadata calls a ClassLabel."""
    try:
        tree = json.loads((schema.metadata or {}).get(_METADATA, b"{}"))
    except ValueError:
        return {}
    for key in ("info", "features"):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    found = {}
    for name, feature in (tree or {}).items() if isinstance(tree, Mapping) else ():
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            found[name] = tuple(map(str, names)) if isinstance(names, list) else ()
    return {name: names for name, names in found.items() if name in schema.names}


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
