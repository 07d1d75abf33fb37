"""Reads TFRecord files of tf.Examples, optionally gzipped, with configurable feature names.

`components/tfrecord_frames.py` reads the frames and protobuf parses the records, both without
TensorFlow.
"""

import gzip
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from google.protobuf.message import DecodeError

from components.image_sources import files
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import MIB, InputConfig, TFRecordConfig
from components.image_sources.errors import InputError
from components.image_sources.example_proto import example_class
from components.image_sources.tar import BATCH_BYTES
from components.tfrecord_frames import FrameError, read_frames

# Bytes that a record may hold in addition to its image.
_ROOM: Final = MIB


def plan(path: str, config: InputConfig) -> Iterator[WorkUnit]:
    """Plans one unit, because only reading the file reveals where its records begin."""
    del config
    yield WorkUnit(0, path, "tfrecord")


def read(unit: WorkUnit, config: InputConfig) -> Iterator[MemberBatch]:
    """Reads the records of one file."""
    keys = config.tfrecord
    if config.labels.source == "none":
        keys = keys.model_copy(update={"label": "", "label_text": ""})
    yield from read_records(unit.source, unit.split, keys, config.labels.names, config)


def read_records(
    path: str,
    split: str | None,
    keys: TFRecordConfig,
    names: tuple[str, ...],
    config: InputConfig,
) -> Iterator[MemberBatch]:
    """Reads the images of one TFRecord file.

    Args:
        path: The file.
        split: The split of all its images.
        keys: Feature keys; an empty key disables its feature.
        names: Class names by number.
        config: Limits, batch size and storage.

    Yields:
        Batches in the order of the file.
    """
    batch, size = MemberBatch(path), 0
    with files.open_stream(path, config.storage) as raw:
        stream: BinaryIO = raw
        if path.endswith(".gz"):
            stream = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]
        for row, (record, reason) in enumerate(_frames(path, stream, config)):
            name = f"{row:08d}"
            if reason:
                batch.refuse(name, reason, f"record {row}")
            else:
                size += _add(batch, name, record, split, keys, names)
            if len(batch) + len(batch.rejects) >= config.units.batch or size >= BATCH_BYTES:
                yield batch
                batch, size = MemberBatch(path), 0
    yield batch


def _add(
    batch: MemberBatch,
    name: str,
    record: bytes,
    split: str | None,
    keys: TFRecordConfig,
    names: tuple[str, ...],
) -> int:
    """Adds one record's image to the batch and returns its size in bytes."""
    try:
        features = example_class().FromString(record).features.feature
    except DecodeError:
        batch.refuse(name, "bad_record", "not a tf.Example")
        return 0
    encoded = _bytes_of(features, keys.encoded)
    if encoded is None:
        batch.refuse(name, "bad_record", f"no bytes under {keys.encoded!r}")
        return 0
    found = _bytes_of(features, keys.filename)
    if found:
        name = f"{name}/{found.decode('utf-8', 'surrogateescape')}"
    text = _bytes_of(features, keys.label_text)
    label = text.decode("utf-8", "surrogateescape") if text else None
    if label is None and (number := _number_of(features, keys.label)) is not None:
        if names and not 0 <= number < len(names):
            batch.refuse(name, "bad_label", f"number {number} has no name")
            return 0
        label = names[number] if names else str(number)
        # TensorFlow's image records and TFDS write -1 for a missing label.
        label = None if number < 0 else label
    batch.add(name, encoded, label, split)
    return len(encoded)


def _bytes_of(features: Any, key: str) -> bytes | None:
    if not key or key not in features:
        return None
    values = features[key].bytes_list.value
    return values[0] if values else None


def _number_of(features: Any, key: str) -> int | None:
    if not key or key not in features:
        return None
    values = features[key].int64_list.value
    return values[0] if values else None


def _frames(path: str, stream: BinaryIO, config: InputConfig) -> Iterator[tuple[bytes, str]]:
    """Reads the frames of a file; raises `InputError` if the file as a whole is damaged."""
    try:
        yield from read_frames(stream, config.limits.max_bytes + _ROOM)
    except FrameError as error:
        raise InputError(f"{path}: not a TFRecord file, or damaged; copy it again") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged or cut short ({error}); copy it again") from error
