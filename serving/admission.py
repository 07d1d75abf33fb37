"""What stands before the Transform graph where files come from clients.

The signatures and the golden set send files through `admit`: bad ones are refused by their headers,
turned and deep ones become what the ingest would have stored. Records of the ingest hold nothing
else, so that training and Transform do without it.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

import tensorflow as tf

from serving.image_headers.check import read_headers, require_sound
from serving.image_headers.usual import are_usual
from trainer import pixels

MAX_PIXELS: Final = 50_000_000
"""Height times width of the largest image that is decoded where nothing else is configured."""

_UPRIGHT: Final = 1


def admit(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Refuses files that can't or must not be decoded, and makes the others plain.

    Args:
        encoded: string `[batch]`, each a JPEG, PNG, GIF (first frame) or BMP file.
        max_pixels: Height times width above which a file is refused, unread.

    Returns:
        string `[batch]`: the files; in place of those with an EXIF turn (EXIF 2.32, table 6) or 16
        bits per sample a PNG, upright and of 8 bits.

    Raises:
        tf.errors.InvalidArgumentError: When the graph runs and a file is refused by its header,
            which the message names by its place in the batch, or can't be decoded.
    """
    return _admission(max_pixels)(encoded)


@functools.cache
def _admission(max_pixels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes the function, which all signatures of an export call: it is traced once."""

    @_apart
    def examined(encoded: tf.Tensor) -> tf.Tensor:
        headers = read_headers(encoded, max_pixels)
        with tf.control_dependencies([require_sound(headers, max_pixels)]):
            orientations = tf.identity(headers.orientation)
        is_special = headers.is_deep | tf.not_equal(orientations, _UPRIGHT)
        return tf.cond(
            tf.reduce_any(is_special),
            lambda: _make_plain(encoded, orientations, headers.is_deep),
            lambda: encoded,
        )

    def admission(encoded: tf.Tensor) -> tf.Tensor:
        is_usual = are_usual(encoded, max_pixels)
        return tf.cond(is_usual, lambda: encoded, lambda: examined(encoded))

    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(admission, input_signature=signature, autograph=False)


def _apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps a rare branch a call: inlined, its hundreds of ops are passed over at every request."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def _make_plain(encoded: tf.Tensor, orientations: tf.Tensor, are_deep: tf.Tensor) -> tf.Tensor:
    """Writes files anew, upright and with 8 bits, those that are so already as they are."""

    def make_one(facts: tuple[tf.Tensor, ...]) -> tf.Tensor:
        content, orientation, is_deep = facts

        def rewrite() -> tf.Tensor:
            image = tf.cond(
                is_deep, lambda: _decode_deep(content), lambda: pixels.decode_file(content)
            )
            return tf.io.encode_png(_turn(image, orientation), compression=1)

        is_special = is_deep | tf.not_equal(orientation, _UPRIGHT)
        return tf.cond(is_special, rewrite, lambda: content)

    facts = (encoded, orientations, are_deep)
    return tf.map_fn(make_one, facts, fn_output_signature=tf.TensorSpec([], tf.string))


def _decode_deep(content: tf.Tensor) -> tf.Tensor:
    # By 257 and rounded, as the bulk job does; TensorFlow's own 8 bits are cut off.
    samples = tf.cast(tf.io.decode_png(content, channels=0, dtype=tf.uint16), tf.int32)
    return tf.cast((samples + 128) // 257, tf.uint8)


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image upright: EXIF 2.32, table 6."""
    image.set_shape([None, None, None])
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    rows_turn, columns_turn = (
        tf.reduce_any(tf.equal(orientation, which)) for which in ((3, 4, 7, 8), (2, 3, 6, 7))
    )
    image = tf.cond(rows_turn, lambda: image[::-1], lambda: image)
    return tf.cond(columns_turn, lambda: image[:, ::-1], lambda: image)
