"""Reads the frame header and orientation of JPEG files (ITU-T T.81, annex B).

The segments of all files of a batch are parsed in parallel, up to the frame headers. This takes
three to six steps for files that cameras and encoders write.
"""

from typing import Final, NamedTuple

import tensorflow as tf

from serving.image_headers.exif import orientations
from serving.image_headers.fields import big, marked, numbers, take

_SEGMENT, _FRAME, _OTHER_FRAME, _ALONE, _FILL, _STOP = range(6)
_STEP_BYTES: Final = 10
_APP1: Final = 0xE1
_EXIF: Final = b"Exif\x00\x00"

_RUNNING, _DONE, _CUT, _DAMAGED, _OTHER_KIND = range(5)


class Frames(NamedTuple):
    """The contents of the frame headers of a batch, `[batch]` each; meaningless for other formats.

    Attributes:
        height: int64, rows as stored, pixels; 0 for other formats.
        width: int64, columns as stored.
        orientation: int32, 1 to 8.
        is_cut: bool, whether the file ends before the frame header.
        is_damaged: bool, whether a marker is missing where one is required.
        is_other_kind: bool, whether it is neither baseline nor progressive, or not 8-bit.
    """

    height: tf.Tensor
    width: tf.Tensor
    orientation: tf.Tensor
    is_cut: tf.Tensor
    is_damaged: tf.Tensor
    is_other_kind: tf.Tensor


def read_jpeg_frames(encoded: tf.Tensor, is_jpeg: tf.Tensor) -> Frames:
    """Reads the frame headers.

    Args:
        encoded: string `[batch]`.
        is_jpeg: bool `[batch]`, the files to read.

    Returns:
        The contents of the frame headers.
    """
    size = tf.cast(tf.strings.length(encoded), tf.int64)
    kinds = tf.constant([_kind(marker) for marker in range(256)], tf.int64)
    nothing = tf.zeros_like(size)

    def step(
        at: tf.Tensor, state: tf.Tensor, frame: tf.Tensor, exif: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        head = take(encoded, at, _STEP_BYTES)
        first, marker, segment = numbers(head, big(0, 1), big(1, 1), big(2, 2))
        (is_application,) = marked(head, {1: bytes([_APP1]), 4: _EXIF})
        kind = tf.gather(kinds, marker)
        here = tf.equal(state, _RUNNING)
        length = tf.where(tf.equal(kind, _SEGMENT), segment, 0)
        length += tf.where(tf.equal(kind, _FILL), tf.ones_like(kind), 2)
        is_exif = here & is_application
        after = tf.gather(tf.constant([_RUNNING, _DONE, _OTHER_KIND, _RUNNING, _RUNNING, _DAMAGED],
                                      tf.int64), kind)  # fmt: skip
        after = tf.where(tf.equal(first, 0xFF), after, _DAMAGED)
        # The remaining bytes could not hold a frame header.
        after = tf.where(at + _STEP_BYTES <= size, after, _CUT)
        ends = here & tf.equal(after, _DONE)
        return (
            tf.where(here, at + length, at),
            tf.where(here, after, state),
            tf.where(ends[:, tf.newaxis], head, frame),
            tf.where(is_exif[:, tf.newaxis], tf.stack([at + 10, at + length], axis=1), exif),
        )

    start = (
        nothing + 2,
        tf.where(is_jpeg, nothing + _RUNNING, _DONE),
        tf.zeros([tf.size(size), _STEP_BYTES], tf.int64),
        tf.zeros([tf.size(size), 2], tf.int64),
    )
    _, state, frame, exif = tf.while_loop(
        lambda at, state, frame, exif: tf.reduce_any(tf.equal(state, _RUNNING)), step, start
    )
    orientation = tf.cond(
        tf.reduce_any(exif > 0),
        lambda: orientations(encoded, exif[:, 0], exif[:, 1]),
        lambda: tf.ones(tf.shape(size), tf.int32),
    )
    bits, height, width = numbers(frame, big(4, 1), big(5, 2), big(7, 2))
    is_deep = is_jpeg & tf.equal(state, _DONE) & tf.not_equal(bits, 8)
    return Frames(
        height,
        width,
        orientation,
        tf.equal(state, _CUT),
        tf.equal(state, _DAMAGED),
        tf.equal(state, _OTHER_KIND) | is_deep,
    )


def _kind(marker: int) -> int:
    if marker in (0xC0, 0xC1, 0xC2):
        return _FRAME
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
        return _OTHER_FRAME
    if marker == 0xFF:
        return _FILL
    # The start of a scan, or the end, before any frame.
    if marker in (0xDA, 0xD9):
        return _STOP
    return _ALONE if marker == 0x01 or 0xD0 <= marker <= 0xD8 else _SEGMENT
