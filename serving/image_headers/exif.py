"""Reads the orientation tag of EXIF data (EXIF 2.32, table 6), for the JPEG and PNG parsers."""

from typing import Final

import tensorflow as tf

from serving.image_headers.fields import big, little, marked, numbers, take

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
    is_little, is_big = marked(head, {0: b"II"}, {0: b"MM"})

    def fields(rows: tf.Tensor, *places: tuple[int, int]) -> list[tf.Tensor]:
        found = numbers(
            rows,
            *(little(at, count) for at, count in places),
            *(big(at, count) for at, count in places),
        )
        order = is_little if len(rows.shape) == 2 else tf.expand_dims(is_little, -1)
        pairs = zip(found[: len(places)], found[len(places) :], strict=True)
        return [tf.where(order, one, other) for one, other in pairs]

    (offset,) = fields(head, (4, 4))
    directory = begin + offset
    (entries,) = fields(take(encoded, directory, 2), (0, 2))
    table = take(encoded, directory + 2, _MOST_ENTRIES * _ENTRY_BYTES)
    table = tf.reshape(table, [-1, _MOST_ENTRIES, _ENTRY_BYTES])
    place = tf.range(_MOST_ENTRIES, dtype=tf.int64)
    stops = directory[:, tf.newaxis] + 2 + _ENTRY_BYTES * (place + 1)
    is_there = (place < entries[:, tf.newaxis]) & (stops <= end[:, tf.newaxis])
    (tag,) = fields(table, (0, 2))
    is_tag = is_there & tf.equal(tag, _ORIENTATION)
    entry = tf.gather(table, tf.argmax(is_tag, axis=1), axis=1, batch_dims=1)
    kind, value = fields(entry, (2, 2), (8, 2))
    is_value = tf.equal(kind, _SHORT) & (value >= 1) & (value <= 8)
    is_value &= tf.reduce_any(is_tag, axis=1) & (is_little | is_big)
    return tf.cast(tf.where(is_value, value, 1), tf.int32)
