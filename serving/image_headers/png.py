"""Reads the orientation of PNG files from the chunks before the pixels.

See https://www.w3.org/TR/png-3/.
"""

from typing import Final

import tensorflow as tf

from serving.image_headers.exif import orientations
from serving.image_headers.fields import big, marked, numbers, take

FIRST_CHUNK: Final = 33
"""Offset of the chunk after the header."""


def png_orientations(encoded: tf.Tensor, is_png: tf.Tensor) -> tf.Tensor:
    """Reads the chunks before the pixels, in parallel for all files of a batch.

    Args:
        encoded: string `[batch]`.
        is_png: bool `[batch]`, the files to read.

    Returns:
        int32 `[batch]`, EXIF orientation, 1 to 8.
    """
    size = tf.cast(tf.strings.length(encoded), tf.int64)

    def step(
        at: tf.Tensor, running: tf.Tensor, exif: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        head = take(encoded, at, 8)
        (length,) = numbers(head, big(0, 4))
        has_exif, has_pixels, is_end = marked(head, {4: b"eXIf"}, {4: b"IDAT"}, {4: b"IEND"})
        is_exif = running & has_exif
        places = tf.stack([at + 8, at + 8 + length], axis=1)
        ahead = at + 12 + length
        running &= ~(has_pixels | is_end) & (ahead + 12 <= size)
        return ahead, running, tf.where(is_exif[:, tf.newaxis], places, exif)

    start = (tf.fill(tf.shape(size), tf.constant(FIRST_CHUNK, tf.int64)), is_png,
             tf.zeros([tf.size(size), 2], tf.int64))  # fmt: skip
    _, _, exif = tf.while_loop(lambda at, running, exif: tf.reduce_any(running), step, start)
    return orientations(encoded, exif[:, 0], exif[:, 1])
