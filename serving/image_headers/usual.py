"""Recognises the layouts of nearly all image files by comparing bytes at fixed offsets.

Parsing the segments of a batch takes as long as decoding thirty small images. Files that match one
of these layouts have their size at a known offset, no orientation and at most 8 bits per sample, so
they need no parsing.
"""

from typing import Final

import tensorflow as tf

_HEAD_BYTES: Final = 168
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
    longest = len(_END_OF_PNG)
    begin = tf.maximum(size - longest, 0)
    tail = _rows(tf.strings.substr(encoded, begin, tf.fill(tf.shape(begin), longest)), longest)
    matches = [_matches(head, tail, layout, max_pixels) for layout in _LAYOUTS]
    return tf.reduce_all(tf.reduce_any(tf.stack(matches), axis=0))


def _rows(parts: tf.Tensor, count: int) -> tf.Tensor:
    return tf.io.decode_raw(parts, tf.uint8, fixed_length=count)


def _matches(
    head: tf.Tensor,
    tail: tf.Tensor,
    layout: tuple[dict[int, bytes], int, int, int, bytes],
    max_pixels: int,
) -> tf.Tensor:
    fixed, height_at, width_at, length, end = layout
    places = [at + offset for at, mark in fixed.items() for offset in range(len(mark))]
    wanted = b"".join(fixed.values()) + end
    sides_at = [at + offset for at in (height_at, width_at) for offset in range(length)]
    found = tf.concat([tf.gather(head, places, axis=1), tail[:, -len(end) :]], axis=1)
    is_layout = tf.reduce_all(tf.equal(found, tf.constant(list(wanted), tf.uint8)), axis=1)
    digits = tf.cast(tf.gather(head, sides_at, axis=1), tf.int64)
    weights = tf.constant([256**place for place in reversed(range(length))], tf.int64)
    sides = tf.reduce_sum(tf.reshape(digits, [-1, 2, length]) * weights, axis=2)
    height, width = sides[:, 0], sides[:, 1]
    # Sides are below 2**32, so their product may exceed 2**63, but a quotient cannot.
    is_small = (height > 0) & (width > 0) & (height <= max_pixels // tf.maximum(width, 1))
    return is_layout & is_small
