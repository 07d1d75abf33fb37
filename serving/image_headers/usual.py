"""Recognises the layouts of nearly all image files by comparing bytes at fixed offsets.

Parsing the segments of a batch takes as long as decoding thirty small images. Files that match one
of these layouts have their size at a known offset, no orientation and at most 8 bits per sample, so
they need no parsing.
"""

from typing import Final

import numpy as np
import tensorflow as tf

_HEAD_BYTES: Final = 168
_TAIL_BYTES: Final = 12
_END_OF_PNG: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_END_OF_JPEG: Final = b"\xff\xd9"

_JFIF: Final = {0: b"\xff\xd8\xff\xe0\x00\x10", 20: b"\xff\xdb\x00\x43"}
# Per layout: bytes at fixed offsets, the offsets of height and width, their length, and the end.
_LAYOUTS: Final = (
    # PNG: a header with 8 bits per sample, directly followed by the pixels.
    ({0: b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR", 24: b"\x08", 37: b"IDAT"}, 20, 16, 4,
     _END_OF_PNG),
    # JPEG of libjpeg in grey and in colour: JFIF, one or two tables, the baseline frame header.
    (_JFIF | {89: b"\xff\xc0\x00\x0b\x08"}, 94, 96, 2, _END_OF_JPEG),
    (_JFIF | {89: b"\xff\xdb\x00\x43", 158: b"\xff\xc0\x00\x11\x08"}, 163, 165, 2, _END_OF_JPEG),
)  # fmt: skip

_BYTES: Final = _HEAD_BYTES + _TAIL_BYTES


def _wanted() -> tuple[np.ndarray, np.ndarray]:
    """Returns the bytes of each layout, uint8 [layouts, bytes], and which of them may be any."""
    wanted = np.zeros([len(_LAYOUTS), _BYTES], np.uint8)
    free = np.ones([len(_LAYOUTS), _BYTES], bool)
    for row, (fixed, _, _, _, end) in enumerate(_LAYOUTS):
        for at, content in (*fixed.items(), (_BYTES - len(end), end)):
            wanted[row, at : at + len(content)] = list(content)
            free[row, at : at + len(content)] = False
    return wanted, free


def _weights(side: int) -> np.ndarray:
    """Returns the weights of the bytes of a side of each layout, int64 [bytes, layouts]."""
    weights = np.zeros([_BYTES, len(_LAYOUTS)], np.int64)
    for row, (_, *sides_at, length, _) in enumerate(_LAYOUTS):
        for place in range(length):
            weights[sides_at[side] + place, row] = 256 ** (length - 1 - place)
    return weights


_WANTED, _FREE = _wanted()
_HEIGHTS, _WIDTHS = _weights(0), _weights(1)


def are_usual(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Tells whether every file of a batch has one of the layouts and at most `max_pixels` pixels.

    Args:
        encoded: string `[batch]`.
        max_pixels: Largest height times width.

    Returns:
        bool scalar; if it is false, `check.read_headers` must read the headers.
    """
    size = tf.strings.length(encoded)
    head = _rows(tf.strings.substr(encoded, 0, _HEAD_BYTES), _HEAD_BYTES)
    begin = tf.maximum(size - _TAIL_BYTES, 0)
    tail = tf.strings.substr(encoded, begin, tf.fill(tf.shape(begin), _TAIL_BYTES))
    rows = tf.concat([head, _rows(tail, _TAIL_BYTES)], axis=1)
    are_wanted = tf.equal(tf.expand_dims(rows, 1), _WANTED) | _FREE
    digits = tf.cast(rows, tf.int64)
    height, width = tf.matmul(digits, _HEIGHTS), tf.matmul(digits, _WIDTHS)
    # Sides are below 2**32, so their product may exceed 2**63, but a quotient cannot.
    is_small = (height > 0) & (width > 0) & (height <= max_pixels // tf.maximum(width, 1))
    is_layout = tf.reduce_all(are_wanted, axis=2) & is_small
    return tf.reduce_all(tf.reduce_any(is_layout, axis=1))


def _rows(parts: tf.Tensor, count: int) -> tf.Tensor:
    return tf.io.decode_raw(parts, tf.uint8, fixed_length=count)
