"""From an image file to the pixels that the model sees, as TensorFlow ops.

The Transform graph, the served signatures and the trainer's input call these functions, so there
is one decoder, one conversion of channels and one resize method in the whole system.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.image_headers.check import read_headers, require_sound
from trainer.image_headers.usual import are_usual

MAX_PIXELS = 50_000_000
"""Height times width of the largest image that is decoded where nothing else is configured."""

# ITU-R BT.601 luma weights, the ones of JPEG's own YCbCr conversion (ITU-T T.871, section 7).
_LUMA = (0.299, 0.587, 0.114)


def decode_batch(
    encoded: tf.Tensor, image_shape: tuple[int, int, int], *, max_pixels: int = MAX_PIXELS
) -> tf.Tensor:
    """Decodes image files, turns them upright and brings them to the model's size.

    Args:
        encoded: string `[batch]`, each a JPEG, PNG, GIF (first frame) or BMP file.
        image_shape: height, width (pixels) and channels (1 or 3) of the result.
        max_pixels: height times width above which a file is refused, unread.

    Returns:
        uint8 `[batch, height, width, channels]`.

    Raises:
        tf.errors.InvalidArgumentError: When the graph runs and a file is refused by its header,
            which the message names by its place in the batch, or can't be decoded.
    """
    # A function of its own, because TensorFlow Transform traces its caller half a dozen times.
    decoded = _decoder(image_shape, max_pixels)(encoded)
    return tf.ensure_shape(decoded, [None, *image_shape])


@functools.cache
def _decoder(
    image_shape: tuple[int, int, int], max_pixels: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(
        lambda encoded: _check_and_decode(encoded, image_shape, max_pixels),
        input_signature=signature,
        autograph=False,
    )


def _check_and_decode(
    encoded: tf.Tensor, image_shape: tuple[int, int, int], max_pixels: int
) -> tf.Tensor:
    spec = tf.TensorSpec(image_shape, tf.uint8)

    def usual() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.ones(tf.shape(encoded), tf.int32), tf.zeros(tf.shape(encoded), tf.bool)

    @_apart
    def checked(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        headers = read_headers(encoded, max_pixels)
        with tf.control_dependencies([require_sound(headers, max_pixels)]):
            return tf.identity(headers.orientation), tf.identity(headers.is_deep)

    orientations, are_deep = tf.cond(
        are_usual(encoded, max_pixels), usual, lambda: checked(encoded)
    )

    def plain() -> tf.Tensor:
        return tf.map_fn(
            lambda content: _fit_one(_decode(content), image_shape),
            encoded,
            fn_output_signature=spec,
        )

    @_apart
    def special(encoded: tf.Tensor, orientations: tf.Tensor, are_deep: tf.Tensor) -> tf.Tensor:
        def decode_one(facts: tuple[tf.Tensor, ...]) -> tf.Tensor:
            content, orientation, is_deep = facts
            image = tf.cond(is_deep, lambda: _decode_deep(content), lambda: _decode(content))
            return _fit_one(_turn(image, orientation), image_shape)

        facts = (encoded, orientations, are_deep)
        return tf.map_fn(decode_one, facts, fn_output_signature=spec)

    # Nearly always nothing is special, and asking it of every image would cost a tenth.
    is_special = tf.reduce_any(are_deep | tf.not_equal(orientations, 1))
    # Nothing is decoded before the check has passed: the answer depends on what it gives.
    return tf.cond(is_special, lambda: special(encoded, orientations, are_deep), plain)


def _apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps a rare branch a call: inlined, its hundreds of ops are passed over at every request."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def fit(pixels: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """Brings decoded images of one size to the model's channels and size.

    Colour becomes grey by BT.601 luma, grey becomes colour by repetition, alpha is dropped. The
    resize is bilinear with antialiasing (`tf.image.resize(antialias=True)`, which agrees with
    Pillow's), the result rounded to whole levels so that it can be stored as uint8 and still be
    exactly what serving computes.

    Args:
        pixels: uint8 `[batch, any height, any width, 1 to 4 channels]`.
        image_shape: height, width (pixels) and channels (1 or 3) of the result.

    Returns:
        uint8 `[batch, height, width, channels]`.
    """
    height, width, channels = image_shape
    converted = _to_grey(pixels) if channels == 1 else _to_colour(pixels)
    size = tf.shape(converted)

    def resize() -> tf.Tensor:
        # Whole numbers of float32, in 0..255, because antialiasing may overshoot by a rounding.
        resized = tf.image.resize(converted, [height, width], method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)

    is_fit = tf.logical_and(tf.equal(size[1], height), tf.equal(size[2], width))
    fitted = tf.cond(is_fit, lambda: converted, resize)
    return tf.ensure_shape(fitted, [None, height, width, channels])


def to_unit(pixels: tf.Tensor) -> tf.Tensor:
    """Scales uint8 levels to float32 in [0, 1]: level / 255."""
    return tf.cast(pixels, tf.float32) / 255.0


def to_levels(unit: tf.Tensor) -> tf.Tensor:
    """Turns the result of `to_unit` back into the uint8 levels it came from."""
    return tf.cast(tf.round(unit * 255.0), tf.uint8)


def _fit_one(image: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    image.set_shape([None, None, None])
    # Most archives hold images of the model's shape: one comparison instead of three.
    is_fit = tf.reduce_all(tf.equal(tf.shape(image), image_shape))
    fitted = tf.cond(is_fit, lambda: image, lambda: fit(image[tf.newaxis], image_shape)[0])
    return tf.ensure_shape(fitted, image_shape)


def _decode(content: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        tf.io.is_jpeg(content), lambda: _decode_jpeg(content), lambda: _decode_other(content)
    )


def _decode_jpeg(content: tf.Tensor) -> tf.Tensor:
    # TensorFlow's default is the fast transform, which other decoders do not compute: with the
    # accurate one OpenCV, and so the bulk job, gives the same pixels bit for bit.
    return tf.io.decode_jpeg(content, channels=0, dct_method="INTEGER_ACCURATE")


def _decode_other(content: tf.Tensor) -> tf.Tensor:
    # channels=0: the file's own, because not every decoder converts (BMP and GIF refuse).
    return tf.io.decode_image(content, channels=0, expand_animations=False)


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


def _to_grey(pixels: tf.Tensor) -> tf.Tensor:
    # Two channels are grey with alpha, four are colour with alpha.
    def luma() -> tf.Tensor:
        red, green, blue = (tf.cast(pixels[..., n : n + 1], tf.float32) for n in range(3))
        # Elementwise, not a matrix product, whose order of summation follows the batch's size.
        grey = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
        return tf.cast(tf.round(grey), tf.uint8)

    return tf.cond(tf.shape(pixels)[3] < 3, lambda: pixels[..., :1], luma)


def _to_colour(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        tf.shape(pixels)[3] < 3,
        lambda: tf.repeat(pixels[..., :1], 3, axis=3),
        lambda: pixels[..., :3],
    )
