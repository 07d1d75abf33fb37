"""Reads IDX files, optionally gzipped, the format of MNIST, with labels in a separate file.

Pixels are encoded as PNG files; identity and split are derived from the pixels themselves.
Format: http://yann.lecun.com/exdb/mnist/, "the IDX file format".
"""

import contextlib
import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

import numpy as np

from components.image_checks import encode_png
from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.label_values import LabelValueError, read_label
from components.image_sources.locate import idx_side_files
from components.image_sources.magic_numbers import GZIP_START
from components.image_sources.tar import BATCH_BYTES
from trainer.errors import InputError
from trainer.storage import files

_UBYTE: Final = 0x08


class _Header(NamedTuple):
    rows: int
    shape: tuple[int, ...]


class IdxReader(Reader):
    """Reads an IDX file of images, and its labels."""

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans units of rows; a gzipped file is one unit."""
        with self._open(path) as stream:
            header = _header(path, stream)
            is_packed = isinstance(stream, gzip.GzipFile)
        size = math.prod(header.shape)
        if size > min(self.config.limits.max_bytes, self.config.limits.max_pixels * 4):
            raise InputError(f"{path}: images of {header.shape} pixels pass limits.max_pixels")
        if not is_packed:
            self._check_size(path, header)
        if self._is_labelled(path):
            self._check_labels(path, header.rows)
        units = self.config.units
        step = max(1, min(units.members, units.max_bytes // size))
        if is_packed:
            step = max(1, header.rows)
        for start in range(0, header.rows, step):
            stop = min(start + step, header.rows)
            yield WorkUnit(0, path, "idx", start, stop, stop - start)

    def _check_size(self, path: str, header: _Header) -> None:
        """Raises if the file's size is not what the header promises, before units are planned."""
        promised = 4 + 4 * (1 + len(header.shape)) + header.rows * math.prod(header.shape)
        size = files.stat(path, self.config.storage).size
        if size < promised:
            raise InputError(
                f"{path}: cut short: {promised - size} bytes are missing; copy it again"
            )
        if size > promised:
            raise InputError(
                f"{path}: {size - promised} bytes more than its header says; copy it again"
            )

    def _check_labels(self, path: str, rows: int) -> None:
        """Raises if the number of labels differs from the number of images."""
        labels = self.label_file(path)
        with self._open(labels) as stream:
            header = _header(labels, stream)
            if header.shape or header.rows != rows:
                raise InputError(
                    f"{labels}: {header.rows} labels for the {rows} images of {path}; take files"
                    " that belong together"
                )
            _exactly(labels, stream, rows)
            _require_end(labels, stream)

    def version(self, unit: WorkUnit) -> bytes:
        """Returns the versions of the image file and of its label file."""
        version = super().version(unit)
        if self.config.labels.source == "none":
            return version
        if not self._is_labelled(unit.source):
            return version + b"\0no labels"
        facts = files.stat(self.label_file(unit.source), self.config.storage)
        return version + f"\0{facts.size}\0{facts.version}".encode()

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads rows as PNG images."""
        labels = self._labels(unit) if self._is_labelled(unit.source) else None
        if unit.start == 0:
            beside = MemberBatch(unit.source)
            for name, reason in idx_side_files(unit.source, self.config):
                beside.ignore(name, reason)
            if beside.members:
                yield beside
        with self._open(unit.source) as stream:
            header = _header(unit.source, stream)
            size = math.prod(header.shape)
            shape = (*header.shape, 1) if len(header.shape) == 2 else header.shape
            prefix = "x".join(map(str, shape)).encode()
            if unit.start:
                stream.seek(unit.start * size, os.SEEK_CUR)
            step = max(1, min(self.config.units.batch, BATCH_BYTES // size))
            for start in range(unit.start, unit.stop, step):
                stop = min(start + step, unit.stop)
                pixels = _exactly(unit.source, stream, (stop - start) * size)
                images = np.frombuffer(pixels, np.uint8).reshape(-1, *shape)
                batch = MemberBatch(unit.source, identity=[])
                for row, image in enumerate(images, start):
                    label = None
                    if labels:
                        try:
                            label = read_label(labels[row - unit.start], self.config.labels.names)
                        except LabelValueError as error:
                            if self.refuses_labels:
                                batch.refuse(f"{row:08d}", "bad_label", str(error))
                                continue
                    batch.add(f"{row:08d}", encode_png(image), label, unit.split)
                    batch.identity.append(prefix + image.tobytes())  # type: ignore[union-attr]
                yield batch
            if unit.stop == header.rows:
                _require_end(unit.source, stream)

    def _is_labelled(self, path: str) -> bool:
        """Returns whether labels are read; a bulk job needs none."""
        if self.config.labels.source == "none":
            return False
        return self.refuses_labels or self._found_label_file(path) is not None

    def label_file(self, path: str) -> str:
        """Returns the path of the label file that belongs to an image file.

        Raises:
            InputError: if there is none.
        """
        if found := self._found_label_file(path):
            return found
        if self.config.labels.source == "none" or not self.refuses_labels:
            return path
        raise InputError(
            f"{path}: no label file {_label_name(path)}; add it, or set labels.source: none"
        )

    def _found_label_file(self, path: str) -> str | None:
        wanted = _label_name(path)
        plain = wanted.removesuffix(".gz")
        for candidate in (wanted, plain, plain + ".gz"):
            if candidate != path and files.exists(candidate, self.config.storage):
                return candidate
        return None

    def _labels(self, unit: WorkUnit) -> bytes:
        """Reads the labels of a unit's rows, one byte each."""
        path = self.label_file(unit.source)
        with self._open(path) as stream:
            _header(path, stream)
            stream.seek(unit.start, os.SEEK_CUR)
            return _exactly(path, stream, unit.stop - unit.start)

    @contextlib.contextmanager
    def _open(self, path: str) -> Iterator[BinaryIO]:
        with files.open_stream(path, self.config.storage) as stream:
            # Browsers unpack `.gz` files as they save them, and keep the name.
            if not stream.peek(2).startswith(GZIP_START):  # type: ignore[attr-defined]
                yield stream
                return
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield unpacked  # type: ignore[misc]


def _label_name(path: str) -> str:
    """Returns the usual path of the labels of an image file."""
    folder, slash, name = path.rpartition("/")
    return (
        folder
        + slash
        + name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    )


def _header(path: str, stream: BinaryIO) -> _Header:
    """Reads the element type and the shape from the header."""
    magic = _exactly(path, stream, 4)
    if magic[:2] != b"\0\0" or magic[2] != _UBYTE or magic[3] not in (1, 3, 4):
        raise InputError(f"{path}: not an IDX file of bytes (it starts with {magic.hex(' ')})")
    rows, *shape = struct.unpack(f">{magic[3]}I", _exactly(path, stream, 4 * magic[3]))
    if shape and (0 in shape or (len(shape) == 3 and shape[2] not in (1, 3, 4))):
        raise InputError(
            f"{path}: images of shape {tuple(shape)}; expected height, width, channels"
        )
    return _Header(rows, tuple(shape))


def _require_end(path: str, stream: BinaryIO) -> None:
    """Raises if anything follows the last row; of a gzipped file this verifies the checksum."""
    if _read(path, stream, 1):
        raise InputError(f"{path}: more bytes than its header says; copy it again")


def _exactly(path: str, stream: BinaryIO, size: int) -> bytes:
    """Reads `size` bytes in bounded pieces, because a header may claim any size."""
    pieces: list[bytes] = []
    left = size
    while left and (piece := _read(path, stream, min(left, 1 << 24))):
        pieces.append(piece)
        left -= len(piece)
    if left:
        raise InputError(f"{path}: cut short: {left} bytes are missing; copy it again")
    return b"".join(pieces)


def _read(path: str, stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged or cut short ({error}); copy it again") from error
