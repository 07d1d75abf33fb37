"""Reads TFRecord files of tf.Examples, packed with gzip or zlib or not, with any feature names.

`components/tfrecord_frames.py` reads the frames and protobuf parses the records, both without
TensorFlow.
"""

import gzip
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from google.protobuf.message import DecodeError

from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import MIB
from components.image_sources.example_proto import example_class
from components.image_sources.label_values import LabelValueError, read_record_label
from components.image_sources.origins import note_unread
from components.image_sources.record_config import TFRecordConfig
from components.image_sources.tar import BATCH_BYTES
from components.tfrecord_frames import FrameError, open_frames, read_frames
from trainer.errors import InputError
from trainer.name_lists import named
from trainer.storage import files

# Bytes that a record may hold in addition to its image.
_ROOM: Final = MIB
_KEYS_NAMED: Final = 12


class TFRecordReader(Reader):
    """Reads a TFRecord file of tf.Examples."""

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans one unit, because only reading the file reveals where its records begin."""
        yield WorkUnit(0, path, "tfrecord")

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads the records of one file."""
        keys = self.config.tfrecord
        if self.config.labels.source == "none":
            keys = keys.model_copy(update={"label": "", "label_text": ""})
        seen: set[str] = set()
        names = self.config.labels.names
        for batch in self.read_records(unit.source, unit.split, keys, names, seen):
            note_unread_features(batch, keys, seen, "tfrecord.label or tfrecord.label_text")
            yield batch
        _require_keys(unit.source, keys, seen)

    def read_records(
        self,
        path: str,
        split: str | None,
        keys: TFRecordConfig,
        names: tuple[str, ...],
        seen: set[str],
    ) -> Iterator[MemberBatch]:
        """Reads the images of one TFRecord file.

        Args:
            path: The file.
            split: The split of all its images.
            keys: Feature keys; an empty key disables its feature.
            names: Class names by number.
            seen: Receives the names of the features that records have.

        Yields:
            Batches in the order of the file.

        Raises:
            InputError: if the file is damaged.
        """
        batch, size = MemberBatch(path), 0
        with files.open_stream(path, self.config.storage) as raw:
            for row, (record, reason) in enumerate(self._frames(path, open_frames(raw))):
                name = f"{row:08d}"
                if reason:
                    batch.refuse(name, reason, f"record {row}")
                else:
                    size += self._add(batch, name, record, split, keys, names, seen)
                if (
                    len(batch) + len(batch.rejects) >= self.config.units.batch
                    or size >= BATCH_BYTES
                ):
                    yield batch
                    batch, size = MemberBatch(path), 0
        yield batch

    def _add(
        self,
        batch: MemberBatch,
        name: str,
        record: bytes,
        split: str | None,
        keys: TFRecordConfig,
        names: tuple[str, ...],
        seen: set[str],
    ) -> int:
        """Adds one record's image to the batch and returns its size in bytes."""
        try:
            features = example_class().FromString(record).features.feature
        except DecodeError:
            batch.refuse(name, "bad_record", "not a tf.Example")
            return 0
        seen.update(features)
        encoded = _value_of(features, keys.encoded)
        if not isinstance(encoded, bytes):
            known = ", ".join(map(repr, sorted(features)[:_KEYS_NAMED]))
            fault = f"no bytes under {keys.encoded!r}; it has {known}"
            if isinstance(encoded, list):
                fault = f"{len(encoded)} values under {keys.encoded!r}; an image has one"
                if not isinstance(encoded[0], bytes):
                    fault = (
                        f"{len(encoded)} numbers under {keys.encoded!r}, no image file; if they are"
                        " pixels, encode them as PNG"
                    )
            batch.refuse(name, "bad_record", fault)
            return 0
        found = _value_of(features, keys.filename)
        if isinstance(found, bytes) and found:
            name = f"{name}/{found.decode('utf-8', 'surrogateescape')}"
        try:
            label = _label(features, keys, names)
        except LabelValueError as error:
            if self.refuses_labels:
                batch.refuse(name, "bad_label", str(error))
                return 0
            label = None
        batch.add(name, encoded, label, split)
        return len(encoded)

    def _frames(self, path: str, stream: BinaryIO) -> Iterator[tuple[bytes, str]]:
        """Reads the frames of a file; raises `InputError` if the file as a whole is damaged."""
        try:
            yield from read_frames(stream, self.config.limits.max_bytes + _ROOM)
        except FrameError as error:
            raise InputError(f"{path}: not a TFRecord file, or damaged; copy it again") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path}: damaged or cut short ({error}); copy it again") from error


def _label(features: Any, keys: TFRecordConfig, names: tuple[str, ...]) -> str | None:
    """Reads the label under the key of the name, otherwise under that of the number.

    Raises:
        LabelValueError: if the value is no label.
    """
    text = _value_of(features, keys.label_text)
    number = _value_of(features, keys.label) if text is None or text == b"" else text
    return read_record_label(number, names)


def note_unread_features(
    batch: MemberBatch, keys: TFRecordConfig, seen: set[str], options: str
) -> None:
    """Notes in a batch which features its records have, if none is that of the label.

    Args:
        batch: The batch.
        keys: Feature keys; an empty key disables its feature.
        seen: Names of the features of the records so far.
        options: The options that name the feature of the label.
    """
    wanted = [key for key in (keys.label_text, keys.label) if key]
    others = seen - {keys.encoded, keys.filename}
    if wanted and others and seen.isdisjoint(wanted):
        known = named(map(repr, sorted(seen)), most=_KEYS_NAMED)
        either = " or ".join(map(repr, wanted))
        note_unread(batch, f"no feature {either} among {known}; name it with {options}")


def _value_of(features: Any, key: str) -> bytes | int | float | list[Any] | None:
    """Returns the value of a feature of any kind: one value, a list of several, or None."""
    if not key or key not in features:
        return None
    feature = features[key]
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if len(values) == 1:
        return values[0]
    return values or None


def _require_keys(path: str, keys: TFRecordConfig, seen: set[str]) -> None:
    """Raises if no record has the feature of the image, or one that is configured.

    Other default keys may be missing; the images are then unlabelled.
    """
    defaults = TFRecordConfig()
    for option in TFRecordConfig.model_fields:
        key = getattr(keys, option)
        needed = option == "encoded" or key != getattr(defaults, option)
        if key and needed and seen and key not in seen:
            known = ", ".join(map(repr, sorted(seen)[:_KEYS_NAMED]))
            raise InputError(
                f"{path}: no record has the feature {key!r} of tfrecord.{option}; they have {known}"
            )
