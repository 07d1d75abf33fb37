"""Reads the orientation tag of EXIF data (EXIF 2.32, table 6), for the JPEG and PNG parsers."""

from typing import Final

import tensorflow as tf

from serving.image_headers.fields import big_endian, little_endian, take

_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
_MOST_ENTRIES: Final = 512
_ENTRY_BYTES: Final = 12


def orientations(encoded: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Reads the orientation from the first directory.

    Args:
        encoded: string `[batch]`.
        begin: int64 `[batch]`, start of the TIFF header.
        end: int64 `[batch]`, end of the EXIF data; at or before `begin` if there are none.

    Returns:
        int32 `[batch]`, 1 to 8; 1 if there is no orientation or the data are damaged.
    """
    rows = tf.where(end > begin)[:, 0]
    found = _read(tf.gather(encoded, rows), tf.gather(begin, rows), tf.gather(end, rows))
    upright = tf.ones(tf.shape(encoded), tf.int32)
    return tf.tensor_scatter_nd_update(upright, rows[:, tf.newaxis], found)


def _read(encoded: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    head = take(encoded, begin, 8)
    is_little = tf.reduce_all(tf.equal(head[:, :2], 0x49), axis=1)
    is_big = tf.reduce_all(tf.equal(head[:, :2], 0x4D), axis=1)

    def number(rows: tf.Tensor, at: int, count: int) -> tf.Tensor:
        order = tf.reshape(is_little, [-1] + [1] * (len(rows.shape) - 2))
        return tf.where(order, little_endian(rows, at, count), big_endian(rows, at, count))

    directory = begin + number(head, 4, 4)
    entries = number(take(encoded, directory, 2), 0, 2)
    table = take(encoded, directory + 2, _MOST_ENTRIES * _ENTRY_BYTES)
    table = tf.reshape(table, [-1, _MOST_ENTRIES, _ENTRY_BYTES])
    place = tf.range(_MOST_ENTRIES, dtype=tf.int64)
    stops = directory[:, tf.newaxis] + 2 + _ENTRY_BYTES * (place + 1)
    is_there = (place < entries[:, tf.newaxis]) & (stops <= end[:, tf.newaxis])
    is_tag = is_there & tf.equal(number(table, 0, 2), _ORIENTATION)
    entry = tf.gather(table, tf.argmax(is_tag, axis=1), axis=1, batch_dims=1)
    value = number(entry, 8, 2)
    is_value = tf.equal(number(entry, 2, 2), _SHORT) & (value >= 1) & (value <= 8)
    is_value &= tf.reduce_any(is_tag, axis=1) & (is_little | is_big)
    return tf.cast(tf.where(is_value, value, 1), tf.int32)
