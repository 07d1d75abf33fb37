"""Reads numbers and markers at fixed offsets of many files at once, for the header parsers.

The files of a batch are the rows of one matrix; shorter ones are padded with zeros.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import tensorflow as tf

_ANY: Final = -1
"""Stands for any byte."""


def take(encoded: tf.Tensor, begin: tf.Tensor, count: int) -> tf.Tensor:
    """Reads bytes from every file.

    Args:
        encoded: string `[batch]`.
        begin: integers `[batch]`, offsets; bytes outside a file read as zeros.
        count: Number of bytes.

    Returns:
        int64 `[batch, count]`, 0 to 255.
    """
    size = tf.cast(tf.strings.length(encoded), tf.int64)
    inside = tf.clip_by_value(tf.cast(begin, tf.int64), 0, size)
    part = tf.strings.substr(
        encoded, inside, tf.fill(tf.shape(inside), tf.constant(count, tf.int64))
    )
    return tf.cast(tf.io.decode_raw(part, tf.uint8, fixed_length=count), tf.int64)


def marked(rows: tf.Tensor, *marks: Mapping[int, bytes]) -> list[tf.Tensor]:
    """Tells which rows hold markers.

    All are looked for at once, because a graph of few ops is traced, loaded and optimised sooner.

    Args:
        rows: int64 `[batch, count]`.
        marks: The bytes of each marker, by their offsets.

    Returns:
        bool `[batch]` for each marker.
    """
    wanted = np.full([len(marks), rows.shape[-1]], _ANY, np.int64)
    for row, mark in zip(wanted, marks, strict=True):
        for at, content in mark.items():
            row[at : at + len(content)] = list(content)
    agrees = tf.equal(tf.expand_dims(rows, -2), wanted) | (wanted == _ANY)
    return tf.unstack(tf.reduce_all(agrees, axis=-1), axis=-1)


def numbers(rows: tf.Tensor, *fields: Mapping[int, int]) -> list[tf.Tensor]:
    """Reads unsigned numbers, all at once for the same reason.

    Args:
        rows: int64 `[..., count]`.
        fields: What `big` and `little` return.

    Returns:
        int64 `[...]` for each field.
    """
    weights = np.zeros([rows.shape[-1], len(fields)], np.int64)
    for place, field in enumerate(fields):
        for at, weight in field.items():
            weights[at, place] = weight
    return tf.unstack(tf.matmul(rows, tf.constant(weights)), axis=-1)


def big(at: int, count: int) -> dict[int, int]:
    """Describes a number with the most significant byte first: the weights of bytes by offset."""
    return {at + place: 256 ** (count - 1 - place) for place in range(count)}


def little(at: int, count: int) -> dict[int, int]:
    """Describes a number with the least significant byte first, as `big` does."""
    return {at + place: 256**place for place in range(count)}


def as_signed(number: tf.Tensor) -> tf.Tensor:
    """Interprets 32 bits as a two's complement number."""
    return tf.where(number >= 2**31, number - 2**32, number)
