"""Image records: columns to serialised tf.Examples, and their frames in a TFRecord file.

Encoding is done in C++ by tfx_bsl, a batch at a time; no TensorFlow is imported. Feature names
are those of `trainer/features.py`.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import google_crc32c
import numpy as np
import pyarrow as pa
from tfx_bsl.coders import example_coder

from components.image_checks import ImageHeader
from trainer import features

_LENGTH: Final = struct.Struct("<Q")
_CRC: Final = struct.Struct("<I")
FRAME_BYTES: Final = 16
"""What a frame adds to its record: length and two checksums."""


def encode(
    keys: Sequence[str],
    data: Sequence[bytes],
    headers: Sequence[ImageHeader],
    digests: np.ndarray,
    labels: Sequence[str | None],
) -> list[bytes]:
    """Encodes a batch of images.

    Args:
        keys: `archive/member` of each.
        data: Files, JPEG or PNG.
        headers: Their facts.
        digests: uint8 [n, 32], SHA-256.
        labels: Class names; None leaves the feature out.

    Returns:
        Serialised tf.Examples, one per image.
    """
    if not data:
        return []
    formats, heights, widths, channels = zip(*(header[:4] for header in headers), strict=True)
    digits = bytes(digests).hex().encode("ascii")
    columns = {
        features.ENCODED: _rows(pa.array(data, pa.large_binary())),
        features.FORMAT: _rows(pa.array([name.encode() for name in formats], pa.large_binary())),
        features.HEIGHT: _rows(pa.array(np.array(heights, np.int64))),
        features.WIDTH: _rows(pa.array(np.array(widths, np.int64))),
        features.CHANNELS: _rows(pa.array(np.array(channels, np.int64))),
        features.FILENAME: _rows(
            pa.array([key.encode("utf-8", "surrogateescape") for key in keys], pa.large_binary())
        ),
        features.SHA256: _rows(
            pa.array([digits[i : i + 64] for i in range(0, len(digits), 64)], pa.large_binary())
        ),
        features.LABEL_TEXT: _labels(labels),
    }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    return example_coder.RecordBatchToExamplesEncoder(None).encode(batch)


def _rows(values: pa.Array) -> pa.Array:
    """Makes one-element lists of values, without copying them."""
    return pa.LargeListArray.from_arrays(pa.array(np.arange(len(values) + 1)), values)


def _labels(labels: Sequence[str | None]) -> pa.Array:
    """Makes lists of one label; where there is none, no list, and the feature is absent."""
    known = [label.encode("utf-8", "surrogateescape") for label in labels if label is not None]
    present = [label is not None for label in labels]
    starts = np.cumsum([0, *present])
    # A null among the offsets makes its list null.
    return pa.LargeListArray.from_arrays(
        pa.array(starts, pa.int64(), mask=np.array([*(not here for here in present), False])),
        pa.array(known, pa.large_binary()),
    )


def frame(records: Sequence[bytes]) -> bytes:
    """Frames records as TFRecord: length, its checksum, data, its checksum.

    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    parts: list[bytes] = []
    for record in records:
        length = _LENGTH.pack(len(record))
        parts += (length, _masked(length), record, _masked(record))
    return b"".join(parts)


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return _CRC.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frames(content: bytes) -> Iterator[tuple[int, int]]:
    """Finds the frames of a TFRecord file that we wrote ourselves.

    Args:
        content: The file's bytes.

    Yields:
        First byte of each frame, and the byte after its last.
    """
    at = 0
    while at < len(content):
        stop = at + FRAME_BYTES + _LENGTH.unpack_from(content, at)[0]
        yield at, stop
        at = stop
