"""Validates and converts client files before the Transform graph.

The signatures and the golden set pass files through `validate_files`. It rejects bad files by their
headers and converts rotated and 16-bit ones to the form that the ingest would have stored. Ingested
records are already in that form, so training and Transform do not need it.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

import tensorflow as tf

from serving.image_headers.check import read_headers, require_sound
from serving.image_headers.usual import are_usual
from trainer.config import ImageConfig
from trainer.data import pixels
from trainer.data.graph_functions import traced_once

MAX_PIXELS: Final = 50_000_000
"""Default for the height times width of the largest image that is decoded."""

_FILES_EXPECTED: Final = "image_bytes has to be string [n], a list of image files; its shape is"
_UPRIGHT: Final = 1
_TRANSPOSED: Final = 5
"""From this EXIF orientation on, rows of the file are columns of the upright image."""


def validate_files(
    encoded: tf.Tensor, image: ImageConfig, max_pixels: int = MAX_PIXELS
) -> tf.Tensor:
    """Rejects files that cannot or must not be decoded, and normalises the others.

    Args:
        encoded: string `[batch]`, each a JPEG, PNG, GIF (first frame) or BMP file.
        image: What the model needs; a rotated JPEG is rewritten at the scale that it decodes at.
        max_pixels: Height times width above which a file is rejected without being decoded.

    Returns:
        string `[batch]`: the files. Those with an EXIF rotation (EXIF 2.32, table 6) or 16 bits per
        sample are replaced with an upright 8-bit PNG.

    Raises:
        tf.errors.InvalidArgumentError: A file cannot be decoded or is rejected by its header; the
            message names it by its position in the batch. Raised when the graph runs.
    """
    return _validation(image, max_pixels)(encoded)


@functools.cache
def _validation(image: ImageConfig, max_pixels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Builds the function that all signatures of an export call, so that it is traced once."""

    @_apart
    def examined(encoded: tf.Tensor) -> tf.Tensor:
        headers = read_headers(encoded, max_pixels)
        with tf.control_dependencies([require_sound(headers, max_pixels)]):
            orientations = tf.identity(headers.orientation)
        is_special = headers.is_deep | tf.not_equal(orientations, _UPRIGHT)
        return tf.cond(
            tf.reduce_any(is_special),
            lambda: _normalise(encoded, orientations, headers.is_deep, image),
            lambda: encoded,
        )

    @traced_once(tf.TensorSpec([None], tf.string))
    def validation(given: tf.Tensor) -> tf.Tensor:
        encoded = _require_list(given)
        is_usual = are_usual(encoded, max_pixels)
        return tf.cond(is_usual, lambda: encoded, lambda: examined(encoded))

    return validation


def hide_rank(given: tf.Tensor) -> tf.Tensor:
    """Returns an input of a signature whose rank is not taken from the signature.

    A C++ session does not compare a request with the signature's rank, so the graph has to, and
    TensorFlow would replace the rank by the signature's if this op did not hide it.
    """
    return tf.compat.v1.placeholder_with_default(given, None)


def has_rank(shape: tf.Tensor, rank: int) -> tf.Tensor:
    """Tells whether a shape, int32 `[any rank]`, has so many axes."""
    # TensorFlow would replace a comparison of the rank by what the signature's gives.
    sides = tf.concat([shape, [-1] + [0] * rank], axis=0)
    return tf.equal(sides[rank], -1)


def _require_list(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the files; the graph fails if it got one file without a list, or lists of lists."""
    given = hide_rank(encoded)
    shape = tf.shape(given)
    check = tf.debugging.Assert(has_rank(shape, 1), [_FILES_EXPECTED, shape], summarize=8)
    with tf.control_dependencies([check]):
        return tf.ensure_shape(tf.identity(given), [None])


def _apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Prevents inlining of a rare branch, whose hundreds of ops would slow down every request."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def _normalise(
    encoded: tf.Tensor, orientations: tf.Tensor, are_deep: tf.Tensor, image: ImageConfig
) -> tf.Tensor:
    """Rewrites rotated and 16-bit files as upright 8-bit PNGs; other files are unchanged."""

    def make_one(facts: tuple[tf.Tensor, ...]) -> tf.Tensor:
        content, orientation, is_deep = facts

        def rewrite() -> tf.Tensor:
            decoded = tf.cond(
                is_deep,
                lambda: _decode_deep(content),
                lambda: pixels.decode_file(content, image, is_turned=orientation >= _TRANSPOSED),
            )
            return tf.io.encode_png(_turn(decoded, orientation), compression=1)

        is_special = is_deep | tf.not_equal(orientation, _UPRIGHT)
        return tf.cond(is_special, rewrite, lambda: content)

    facts = (encoded, orientations, are_deep)
    return tf.map_fn(make_one, facts, fn_output_signature=tf.TensorSpec([], tf.string))


def _decode_deep(content: tf.Tensor) -> tf.Tensor:
    # Divided by 257 and rounded, as in the bulk job; TensorFlow's own conversion truncates.
    samples = tf.cast(tf.io.decode_png(content, channels=0, dtype=tf.uint16), tf.int32)
    return tf.cast((samples + 128) // 257, tf.uint8)


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotates an image upright according to EXIF 2.32, table 6."""
    image.set_shape([None, None, None])
    image = tf.cond(
        orientation >= _TRANSPOSED, lambda: tf.transpose(image, [1, 0, 2]), lambda: image
    )
    rows_turn, columns_turn = (
        tf.reduce_any(tf.equal(orientation, which)) for which in ((3, 4, 7, 8), (2, 3, 6, 7))
    )
    image = tf.cond(rows_turn, lambda: image[::-1], lambda: image)
    return tf.cond(columns_turn, lambda: image[:, ::-1], lambda: image)
