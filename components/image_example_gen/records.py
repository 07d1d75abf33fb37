"""Encodes images as serialised tf.Examples without importing TensorFlow.

`parts.py` writes the records; the feature names are those of `trainer/data/features.py`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from components.image_checks import ImageHeader
from trainer.data import features

_ENCODED: Final = features.ENCODED.encode("ascii")
_FILENAME: Final = features.FILENAME.encode("ascii")
_SHA256: Final = features.SHA256.encode("ascii")


def encode(
    keys: Sequence[str],
    data: Sequence[bytes],
    headers: Sequence[ImageHeader],
    digests: np.ndarray,
    labels: Sequence[str | None],
) -> list[bytes]:
    """Encodes a batch of images.

    Args:
        keys: `archive/member` of each image.
        data: The image files, JPEG or PNG.
        headers: The headers of the original files.
        digests: uint8 [n, 32], SHA-256.
        labels: Class names; None omits the feature.

    Returns:
        Serialised tf.Examples, one per image.
    """
    digits = bytes(digests).hex().encode("ascii")
    records = []
    for i, (key, image, header, label) in enumerate(zip(keys, data, headers, labels, strict=True)):
        fixed = _fixed(header.format, *header.upright_size, header.channels, label)
        name = key.encode("utf-8", "surrogateescape")
        parts = (
            _opening(_ENCODED, len(image)),
            image,
            _opening(_FILENAME, len(name)),
            name,
            _opening(_SHA256, 64),
            digits[64 * i : 64 * i + 64],
            fixed,
        )
        body = b"".join(parts)
        records.append(b"\x0a" + _varint(len(body)) + body)
    return records


# Entries of the map `Features.feature`, in the protobuf wire format
# (https://protobuf.dev/programming-guides/encoding/). Every field here is number 1 or 2 and has a
# length, hence the tags 0x0a and 0x12. Encoding with Arrow and tfx_bsl took three times as long.


@lru_cache(maxsize=65536)
def _fixed(image_format: str, height: int, width: int, channels: int, label: str | None) -> bytes:
    """Encodes the features that many images share."""
    texts = {features.FORMAT: image_format.encode("ascii")}
    if label is not None:
        texts[features.LABEL_TEXT] = label.encode("utf-8", "surrogateescape")
    numbers = {features.HEIGHT: height, features.WIDTH: width, features.CHANNELS: channels}
    entries = [_opening(name.encode("ascii"), len(value)) + value for name, value in texts.items()]
    for name, number in numbers.items():
        values = _field(b"\x0a", _varint(number))
        feature = _field(b"\x1a", values)
        entries.append(
            _field(b"\x0a", _field(b"\x0a", name.encode("ascii")) + _field(b"\x12", feature))
        )
    return b"".join(entries)


@lru_cache(maxsize=65536)
def _opening(name: bytes, size: int) -> bytes:
    """Encodes the bytes that precede a bytes feature's single value of `size` bytes."""
    value = b"\x0a" + _varint(size)
    values = b"\x0a" + _varint(len(value) + size) + value
    feature = b"\x12" + _varint(len(values) + size) + values
    entry = _field(b"\x0a", name) + feature
    return b"\x0a" + _varint(len(entry) + size) + entry


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


@lru_cache(maxsize=65536)
def _varint(number: int) -> bytes:
    """Encodes a number as a varint: seven bits per byte, lowest bits first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
