"""Converts image files to the model's input pixels with TensorFlow ops.

The Transform graph, the served signatures and the trainer's input share these functions, so the
system has one decoder, one channel conversion and one resize method.
`components/image_checks/model_pixels.py` computes the same pixels without TensorFlow, bit for bit.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import tensorflow as tf

from trainer.config import ImageConfig
from trainer.data.scales import JPEG_RATIOS, KEPT_SCALE, LARGEST_BLOCK

# BT.601 luma in 16-bit fixed point, as in Pillow's conversion to "L".
_LUMA: Final = (19595, 38470, 7471)
_LUMA_BITS: Final = 16

# Bits of the weights of the resize, as in Pillow: 32 less 8 for a sample and 2 for the sum.
_WEIGHT_BITS: Final = 22


def decode_batch(encoded: tf.Tensor, image: ImageConfig) -> tf.Tensor:
    """Decodes image files and converts them to the model's size and channels.

    Args:
        encoded: string `[batch]`, each a JPEG, PNG, GIF (first frame) or BMP file, upright and with
            8 bits per sample, as the ingest and `serving/input_validation.py` write them.
        image: size, channels and fit of the result.

    Returns:
        uint8 `[batch, height, width, channels]`.

    Raises:
        tf.errors.InvalidArgumentError: An image cannot be decoded; raised when the graph runs.
    """
    return tf.map_fn(
        lambda content: _fit_one(decode_file(content, image), image),
        encoded,
        fn_output_signature=tf.TensorSpec(image.shape, tf.uint8),
    )


def decode_file(
    content: tf.Tensor, image: ImageConfig, *, is_turned: tf.Tensor | bool = False
) -> tf.Tensor:
    """Decodes one JPEG, PNG, GIF (first frame) or BMP file without converting its channels.

    A JPEG is decoded at the smallest scale of its inverse DCT that leaves at least twice the size
    that the model needs, which saves most of the time of a photograph.

    Args:
        content: string, the file.
        image: What the model needs.
        is_turned: bool, whether the rows of the file are columns of the upright image.

    Returns:
        uint8 `[any height, any width, 1 to 4 channels]`.
    """
    return tf.cond(
        tf.io.is_jpeg(content),
        lambda: _decode_jpeg(content, image, is_turned),
        lambda: _decode_other(content),
    )


def fit_to_shape(pixels: tf.Tensor, image: ImageConfig) -> tf.Tensor:
    """Converts decoded images of one size to the model's channels and size.

    Colour is converted to grey by BT.601 luma and grey to colour by repetition; alpha is dropped.
    Images of more than four times the size are first averaged over blocks (Pillow's
    `Image.reduce`), leaving at least twice the size; then they are resized by bilinear
    interpolation with antialiasing (Pillow's `Image.resize`). All arithmetic is on whole numbers,
    so the result is the same on every processor and equal to Pillow's.

    Args:
        pixels: uint8 `[batch, any height, any width, 1 to 4 channels]`.
        image: size, channels and fit of the result.

    Returns:
        uint8 `[batch, height, width, channels]`.
    """
    height, width, channels = image.shape
    converted = _to_grey(pixels) if channels == 1 else _to_colour(pixels)
    size = tf.shape(converted)
    is_fit = tf.logical_and(tf.equal(size[1], height), tf.equal(size[2], width))
    fitted = tf.cond(is_fit, lambda: converted, lambda: _FITS[image.fit](converted, height, width))
    return tf.ensure_shape(fitted, [None, height, width, channels])


def to_unit(pixels: tf.Tensor) -> tf.Tensor:
    """Scales uint8 levels to float32 in [0, 1]: level / 255."""
    return tf.cast(pixels, tf.float32) / 255.0


def to_levels(unit: tf.Tensor) -> tf.Tensor:
    """Converts the result of `to_unit` back to the original uint8 levels."""
    return tf.cast(tf.round(unit * 255.0), tf.uint8)


def _fit_one(pixels: tf.Tensor, image: ImageConfig) -> tf.Tensor:
    pixels.set_shape([None, None, None])
    # Most archives hold images of the model's shape, for which one comparison suffices. Inlined,
    # the ops of the other branch would cost as much as decoding a small image.
    is_fit = tf.reduce_all(tf.equal(tf.shape(pixels), image.shape))
    other = tf.function(
        lambda decoded: fit_to_shape(decoded[tf.newaxis], image)[0],
        input_signature=[tf.TensorSpec([None, None, None], tf.uint8)],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )
    fitted = tf.cond(is_fit, lambda: pixels, lambda: other(pixels))
    return tf.ensure_shape(fitted, image.shape)


def _decode_jpeg(content: tf.Tensor, image: ImageConfig, is_turned: tf.Tensor | bool) -> tf.Tensor:
    least = KEPT_SCALE * np.array(JPEG_RATIOS[1:])[:, np.newaxis] * [image.height, image.width]
    enough = tf.reduce_any if image.fit == "pad" else tf.reduce_all
    size = tf.io.extract_jpeg_shape(content)[:2]
    if not isinstance(is_turned, bool):
        size = tf.cond(is_turned, lambda: size[::-1], lambda: size)
    scale = tf.reduce_sum(tf.cast(enough(size >= least.astype(np.int32), axis=1), tf.int32))

    def at(place: int) -> Callable[[], tf.Tensor]:
        # TensorFlow's default is the fast DCT, which other decoders do not use. With the accurate
        # one, OpenCV, and so ingest and the bulk job, gives bit-identical pixels.
        return lambda: tf.io.decode_jpeg(
            content, channels=0, ratio=JPEG_RATIOS[place], dct_method="INTEGER_ACCURATE"
        )

    # Nested, because a SavedModel cannot hold the op of `tf.switch_case`.
    return tf.cond(
        scale > 1,
        lambda: tf.cond(scale > 2, at(3), at(2)),
        lambda: tf.cond(scale > 0, at(1), at(0)),
    )


def _decode_other(content: tf.Tensor) -> tf.Tensor:
    # channels=0 keeps the channels of the file, because the BMP and GIF decoders cannot convert.
    return tf.io.decode_image(content, channels=0, expand_animations=False)


def _to_grey(pixels: tf.Tensor) -> tf.Tensor:
    # Two channels are grey and alpha, four are colour and alpha.
    def luma() -> tf.Tensor:
        red, green, blue = (tf.cast(pixels[..., n : n + 1], tf.int32) for n in range(3))
        weighted = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
        return tf.cast((weighted + (1 << _LUMA_BITS - 1)) // (1 << _LUMA_BITS), tf.uint8)

    return tf.cond(tf.shape(pixels)[3] < 3, lambda: pixels[..., :1], luma)


def _to_colour(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        tf.shape(pixels)[3] < 3,
        lambda: tf.repeat(pixels[..., :1], 3, axis=3),
        lambda: pixels[..., :3],
    )


def _stretch(pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
    return _resize(pixels, tf.constant(height), tf.constant(width))


def _crop(pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
    rows, columns = _sides(pixels)
    kept_rows = tf.minimum(rows, _scaled(columns, height, width))
    kept_columns = tf.minimum(columns, _scaled(rows, width, height))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    part = pixels[:, top : top + kept_rows, left : left + kept_columns]
    return _stretch(part, height, width)


def _pad(pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
    rows, columns = _sides(pixels)
    inner_rows = tf.minimum(tf.constant(height, tf.int64), _scaled(rows, width, columns))
    inner_columns = tf.minimum(tf.constant(width, tf.int64), _scaled(columns, height, rows))
    inner = _resize(pixels, tf.cast(inner_rows, tf.int32), tf.cast(inner_columns, tf.int32))
    top, left = (height - inner_rows) // 2, (width - inner_columns) // 2
    beside = [
        [0, 0],
        [top, height - inner_rows - top],
        [left, width - inner_columns - left],
        [0, 0],
    ]
    return tf.pad(inner, tf.cast(tf.stack(beside), tf.int32))


_FITS: Final[dict[str, Callable[[tf.Tensor, int, int], tf.Tensor]]] = {
    "stretch": _stretch,
    "crop": _crop,
    "pad": _pad,
}


def _sides(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # Products of sides exceed 32 bits.
    _, rows, columns, _ = tf.unstack(tf.shape(pixels, out_type=tf.int64), num=4)
    return rows, columns


def _scaled(side: tf.Tensor, by: tf.Tensor | int, over: tf.Tensor | int) -> tf.Tensor:
    """Returns side * by / over, rounded half up, at least 1; int64."""
    by, over = tf.cast(by, tf.int64), tf.cast(over, tf.int64)
    return tf.maximum(tf.constant(1, tf.int64), (2 * side * by + over) // (2 * over))


def _resize(pixels: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Resizes uint8 `[n, any, any, c]` to int32 height and width, in two passes as Pillow does."""
    # Decoding is on the CPU, and copies to a GPU would cost more than they save.
    with tf.device("/CPU:0"):
        small = _reduce(pixels, height, width)
        count, rows, columns, channels = tf.unstack(tf.shape(small), num=4)
        # The axis to resize comes first, so that each sample is one contiguous run of memory.
        lines = tf.reshape(tf.transpose(small, [2, 0, 1, 3]), [columns, -1])
        across = tf.reshape(_resize_lines(lines, width), [width, count, rows, channels])
        lines = tf.reshape(tf.transpose(across, [2, 1, 0, 3]), [rows, -1])
        down = tf.reshape(_resize_lines(lines, height), [height, count, width, channels])
        return tf.transpose(down, [1, 0, 2, 3])


def _resize_lines(lines: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Resizes the first axis of uint8 `[before, m]` with a triangle filter as wide as the scale.

    The weights are whole numbers, of which each set adds up to 2^22, so a sum fits into 32 bits.
    They are fractions with denominators far below 2^22, so rounding errors of float64 cannot change
    their rounding.
    """
    before = tf.cast(tf.shape(lines)[0], tf.float64)
    zero, one = tf.zeros([], tf.float64), tf.ones([], tf.float64)
    scale = before / tf.cast(after, tf.float64)
    reach = tf.maximum(scale, one)
    centres = ((tf.range(tf.cast(after, tf.float64)) + 0.5) * scale)[:, tf.newaxis]
    first = tf.maximum(tf.floor(centres - reach + 0.5), zero)
    end = tf.minimum(tf.floor(centres + reach + 0.5), before)
    samples = first + tf.range(2.0 * tf.math.ceil(reach) + 1.0)
    heights = tf.maximum(one - tf.abs(samples - centres + 0.5) / reach, zero)
    heights = tf.where(samples < end, heights, zero)
    shares = heights / tf.reduce_sum(heights, axis=1, keepdims=True)
    weights = tf.cast(tf.floor(shares * 2.0**_WEIGHT_BITS + 0.5), tf.int32)
    taken = tf.gather(lines, tf.cast(tf.minimum(samples, before - one), tf.int32))
    sums = tf.reduce_sum(tf.cast(taken, tf.int32) * weights[..., tf.newaxis], axis=1)
    levels = tf.bitwise.right_shift(sums + (1 << _WEIGHT_BITS - 1), _WEIGHT_BITS)
    return tf.cast(tf.minimum(levels, 255), tf.uint8)


def _reduce(pixels: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Averages blocks, so that at least twice the height and width are left.

    Rows and columns that do not fill a block are cut off on both sides: less than half a pixel of
    the result.
    """
    size = tf.shape(pixels)
    block_rows = tf.clip_by_value(size[1] // (KEPT_SCALE * height), 1, LARGEST_BLOCK)
    block_columns = tf.clip_by_value(size[2] // (KEPT_SCALE * width), 1, LARGEST_BLOCK)

    def averaged() -> tf.Tensor:
        rows, columns = size[1] // block_rows, size[2] // block_columns
        whole_rows, whole_columns = rows * block_rows, columns * block_columns
        top, left = (size[1] - whole_rows) // 2, (size[2] - whole_columns) // 2
        whole = pixels[:, top : top + whole_rows, left : left + whole_columns]
        means = tf.raw_ops.ResizeArea(images=whole, size=tf.stack([rows, columns]))
        area = block_rows * block_columns
        # The op's float32 means are not exact, but close enough to restore the sums.
        sums = tf.cast(tf.round(means * tf.cast(area, tf.float32)), tf.int64)
        # Pillow multiplies by a reciprocal in 24-bit fixed point instead of dividing.
        reciprocal = tf.cast(2.0**32 / tf.cast(256 * area, tf.float32), tf.int64)
        return tf.cast((sums + tf.cast(area // 2, tf.int64)) * reciprocal // 2**24, tf.uint8)

    return tf.cond(block_rows * block_columns > 1, averaged, lambda: pixels)
