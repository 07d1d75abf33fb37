"""Reads numbers and markers at fixed offsets of many files at once, for the header parsers.

The files of a batch are the rows of one matrix; shorter ones are padded with zeros.
"""

import tensorflow as tf


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


def starts(rows: tf.Tensor, mark: bytes) -> tf.Tensor:
    """Tells which rows begin with a marker; bool `[batch]`."""
    return tf.reduce_all(tf.equal(rows[:, : len(mark)], tf.constant(list(mark), tf.int64)), axis=1)


def big_endian(rows: tf.Tensor, at: int, count: int) -> tf.Tensor:
    """Reads an unsigned number, most significant byte first; int64 `[batch]`."""
    weights = tf.constant([256**place for place in reversed(range(count))], tf.int64)
    return tf.reduce_sum(rows[..., at : at + count] * weights, axis=-1)


def little_endian(rows: tf.Tensor, at: int, count: int) -> tf.Tensor:
    """Reads an unsigned number, least significant byte first; int64 `[batch]`."""
    weights = tf.constant([256**place for place in range(count)], tf.int64)
    return tf.reduce_sum(rows[..., at : at + count] * weights, axis=-1)


def as_signed(number: tf.Tensor) -> tf.Tensor:
    """Interprets 32 bits as a two's complement number."""
    return tf.where(number >= 2**31, number - 2**32, number)
