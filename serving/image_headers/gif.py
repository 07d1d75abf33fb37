"""Reads the size of GIF files (https://www.w3.org/Graphics/GIF/spec-gif89a.txt).

A frame may claim to be larger than the screen, and the decoder unpacks all frames, so the pixels of
all frames are counted.
"""

from typing import Final, NamedTuple

import tensorflow as tf

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL: Final = 0xF9
_MARGIN: Final = 2048
"""Bytes of padding; more than the longest step, a frame with its colour table and a block."""


class Screen(NamedTuple):
    """The contents of a GIF.

    Attributes:
        pixels: int64, number of pixels of all frames together.
        is_whole: bool, whether it has a frame and ends after one.
        is_clear: bool, whether a frame has a transparent colour, or the first one leaves a part of
            the image uncovered; TensorFlow's image is as large as the largest frame.
    """

    pixels: tf.Tensor
    is_whole: tf.Tensor
    is_clear: tf.Tensor


def read_gif(content: tf.Tensor) -> Screen:
    """Parses the blocks of one file.

    Args:
        content: string, a GIF file.

    Returns:
        Its contents.
    """
    # Zeros after the end make a bounds check at every byte unnecessary.
    data = tf.pad(tf.cast(tf.io.decode_raw(content, tf.uint8), tf.int64), [[0, _MARGIN]])
    end = tf.size(data, tf.int64) - _MARGIN

    def skip_blocks(at: tf.Tensor) -> tf.Tensor:
        def ahead(at: tf.Tensor) -> tuple[tf.Tensor]:
            return (at + 1 + data[at],)

        (at,) = tf.while_loop(lambda at: (at < end) & (data[at] > 0), ahead, (at,))
        return at + 1

    # The place of a frame that covers the screen: at its origin, and of its size.
    covering = tf.concat([tf.zeros([4], tf.int64), data[6:10]], axis=0)
    screen = data[6:10:2] + 256 * data[7:10:2]

    def step(
        at: tf.Tensor, pixels: tf.Tensor, is_whole: tf.Tensor, is_clear: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        window = tf.slice(data, [at], [10])
        kind, control, _, packed, *_, flags = tf.unstack(window)
        is_image = tf.equal(kind, _IMAGE)
        is_control = tf.equal(kind, _EXTENSION) & tf.equal(control, _GRAPHIC_CONTROL)
        is_clear |= is_control & tf.equal(packed % 2, 1)
        covers_screen = tf.reduce_all(tf.equal(window[1:9], covering))
        is_clear |= is_image & tf.equal(pixels, 0) & ~covers_screen
        size = window[5:9:2] + 256 * window[6:9:2]
        is_clear |= is_image & tf.reduce_any(size > screen)
        area = tf.where(is_image, tf.reduce_prod(size), 0)
        after = skip_blocks(at + tf.where(is_image, 11 + _table(flags), 2))
        is_whole |= is_image & (after <= end)
        return tf.minimum(after, end), pixels + area, is_whole, is_clear

    start = (
        tf.minimum(13 + _table(data[10]), end),
        tf.constant(0, tf.int64), tf.constant(False), tf.constant(False),
    )  # fmt: skip
    _, pixels, is_whole, is_clear = tf.while_loop(
        lambda at, *_: (at < end) & tf.not_equal(data[at], _TRAILER), step, start
    )
    return Screen(pixels, is_whole, is_clear)


def _table(flags: tf.Tensor) -> tf.Tensor:
    """Computes the size in bytes of the colour table from the flags of a screen or a frame."""
    entries = tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8)
    return tf.where(flags >= 128, 3 * entries, 0)
