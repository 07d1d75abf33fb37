"""Converts image files to the model's input pixels with TensorFlow ops.

The Transform graph, the served signatures and the trainer's input share these functions, so the
system has one decoder, one channel conversion and one resize method.
"""

import tensorflow as tf

# ITU-R BT.601 luma weights, as in JPEG's own YCbCr conversion (ITU-T T.871, section 7).
_LUMA = (0.299, 0.587, 0.114)


def decode_batch(encoded: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """Decodes image files and converts them to the model's size and channels.

    Args:
        encoded: string `[batch]`, each a JPEG, PNG, GIF (first frame) or BMP file, upright and with
            8 bits per sample, as the ingest and `serving/input_validation.py` write them.
        image_shape: height, width (pixels) and channels (1 or 3) of the result.

    Returns:
        uint8 `[batch, height, width, channels]`.

    Raises:
        tf.errors.InvalidArgumentError: An image cannot be decoded; raised when the graph runs.
    """
    return tf.map_fn(
        lambda content: _fit_one(decode_file(content), image_shape),
        encoded,
        fn_output_signature=tf.TensorSpec(image_shape, tf.uint8),
    )


def decode_file(content: tf.Tensor) -> tf.Tensor:
    """Decodes one JPEG, PNG, GIF (first frame) or BMP file, a string, without conversion.

    Returns:
        uint8 `[any height, any width, 1 to 4 channels]`.
    """
    return tf.cond(
        tf.io.is_jpeg(content), lambda: _decode_jpeg(content), lambda: _decode_other(content)
    )


def fit_to_shape(pixels: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """Converts decoded images of one size to the model's channels and size.

    Colour is converted to grey by BT.601 luma and grey to colour by repetition; alpha is dropped.
    The resize is bilinear with antialiasing (`tf.image.resize(antialias=True)`, which agrees with
    Pillow's). The result is rounded to whole levels, so that it can be stored as uint8 and still
    equals what serving computes.

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
        # Rounded to whole levels and clipped to 0..255, because antialiasing may overshoot by a
        # rounding error.
        resized = tf.image.resize(converted, [height, width], method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)

    is_fit = tf.logical_and(tf.equal(size[1], height), tf.equal(size[2], width))
    fitted = tf.cond(is_fit, lambda: converted, resize)
    return tf.ensure_shape(fitted, [None, height, width, channels])


def to_unit(pixels: tf.Tensor) -> tf.Tensor:
    """Scales uint8 levels to float32 in [0, 1]: level / 255."""
    return tf.cast(pixels, tf.float32) / 255.0


def to_levels(unit: tf.Tensor) -> tf.Tensor:
    """Converts the result of `to_unit` back to the original uint8 levels."""
    return tf.cast(tf.round(unit * 255.0), tf.uint8)


def _fit_one(image: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    image.set_shape([None, None, None])
    # Most archives hold images of the model's shape, for which one comparison suffices.
    is_fit = tf.reduce_all(tf.equal(tf.shape(image), image_shape))
    fitted = tf.cond(is_fit, lambda: image, lambda: fit_to_shape(image[tf.newaxis], image_shape)[0])
    return tf.ensure_shape(fitted, image_shape)


def _decode_jpeg(content: tf.Tensor) -> tf.Tensor:
    # TensorFlow's default is the fast DCT, which other decoders do not use. With the accurate
    # one, OpenCV, and so the bulk job, gives bit-identical pixels.
    return tf.io.decode_jpeg(content, channels=0, dct_method="INTEGER_ACCURATE")


def _decode_other(content: tf.Tensor) -> tf.Tensor:
    # channels=0 keeps the channels of the file, because the BMP and GIF decoders cannot convert.
    return tf.io.decode_image(content, channels=0, expand_animations=False)


def _to_grey(pixels: tf.Tensor) -> tf.Tensor:
    # Two channels are grey and alpha, four are colour and alpha.
    def luma() -> tf.Tensor:
        red, green, blue = (tf.cast(pixels[..., n : n + 1], tf.float32) for n in range(3))
        # Elementwise, because the summation order of a matrix product depends on the batch size.
        grey = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
        return tf.cast(tf.round(grey), tf.uint8)

    return tf.cond(tf.shape(pixels)[3] < 3, lambda: pixels[..., :1], luma)


def _to_colour(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        tf.shape(pixels)[3] < 3,
        lambda: tf.repeat(pixels[..., :1], 3, axis=3),
        lambda: pixels[..., :3],
    )
