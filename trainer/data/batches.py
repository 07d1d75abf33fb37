"""Selects the images of each step and feeds them to the devices.

A stream is an endless sequence of epochs, each a permutation keyed by (seed, epoch). Step s takes
positions s * batch to (s + 1) * batch of it. A step's images therefore follow from its number
alone, and a checkpoint stores no position. `step.py` and `streams.py` use it.
"""

import functools
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainer.data.input_pipeline import ImageSet

_BLOCK_BYTES = 32 << 20
"""Target size of the images that the host sends at once, in bytes."""


class Order:
    """The endless shuffled order of a stream.

    Args:
        size: number of images in the stream.
        seed: the configured seed.
        name: name of the stream, so that two streams differ.
    """

    def __init__(self, size: int, seed: int, name: str) -> None:
        self._size = size
        self._key = (seed, zlib.crc32(name.encode()))
        # A block spans few epochs, so the current and the next permutation suffice, except for
        # tiny sets, whose permutations are cheap.
        self._epoch = functools.lru_cache(maxsize=4)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([*self._key, epoch]).permutation(self._size)

    def places(self, start: int, count: int) -> np.ndarray:
        """Returns the image numbers at positions start to start + count, int64 [count]."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self._size)
            part = self._epoch(epoch)[offset : offset + count]
            parts.append(part)
            start += len(part)
            count -= len(part)
        return np.concatenate(parts)


class Feed(Protocol):
    """A stream of one split in the form that the compiled step takes."""

    most_steps: int
    """Maximum number of steps in one block."""

    def block(self, first_step: int, count: int, capacity: int) -> tuple[tf.Tensor, ...]:
        """Returns the host's data for `count` steps, tensors padded to [capacity, ...]."""

    def resident(self) -> tuple[Any, ...]:
        """Returns the data that stays on the devices, as arguments of `strategy.run`."""

    def batch(
        self, row: Sequence[tf.Tensor], resident: Sequence[tf.Tensor], replica: tf.Tensor | int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Builds one replica's images, uint8 [b, h, w, c], and labels, int32 [b], in the graph."""


class ResidentFeed:
    """Keeps the whole split on every device; the host sends image numbers.

    Args:
        data: the split.
        batch_size: the global batch size.
        order: order of the stream.
        strategy: the distribution strategy.
    """

    most_steps = 512

    def __init__(self, data: ImageSet, batch_size: int, order: Order, strategy: Any) -> None:
        self._batch_size = batch_size
        self._replicas = strategy.num_replicas_in_sync
        self._order = order
        arrays = (np.ascontiguousarray(data.images), data.labels.astype(np.int32))
        if self._replicas == 1:
            self._resident = tuple(tf.constant(values) for values in arrays)
        else:
            self._resident = tuple(
                strategy.experimental_distribute_values_from_function(
                    lambda _, values=values: tf.constant(values)
                )
                for values in arrays
            )

    def block(self, first_step: int, count: int, capacity: int) -> tuple[tf.Tensor, ...]:
        """Returns image numbers, int32 [capacity, batch]."""
        size = self._batch_size
        places = np.zeros([capacity, size], np.int32)
        places[:count] = self._order.places(first_step * size, count * size).reshape(count, size)
        return (tf.constant(places),)

    def resident(self) -> tuple[Any, ...]:
        """Returns the images and labels of the whole split for each replica."""
        return self._resident

    def batch(
        self, row: Sequence[tf.Tensor], resident: Sequence[tf.Tensor], replica: tf.Tensor | int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Gathers the share of the replica."""
        share = self._batch_size // self._replicas
        places = tf.ensure_shape(row[0][replica * share : (replica + 1) * share], [share])
        images, labels = resident
        return tf.gather(images, places), tf.gather(labels, places)


class StreamedFeed:
    """Keeps the split on the host (in a memory-mapped file); the host sends images.

    Args:
        data: the split.
        batch_size: the global batch size.
        order: order of the stream.
        strategy: the distribution strategy.
    """

    def __init__(self, data: ImageSet, batch_size: int, order: Order, strategy: Any) -> None:
        self._data = data
        self._batch_size = batch_size
        self._order = order
        self._replicas = strategy.num_replicas_in_sync
        # Each worker reads only the images of its own replicas.
        resolver = strategy.cluster_resolver
        clustered = resolver is not None and resolver.cluster_spec().as_dict()
        workers = strategy.extended._num_workers if clustered else 1
        self._local_replicas = self._replicas // workers
        first = strategy.extended._id_in_cluster * self._local_replicas if clustered else 0
        share = batch_size // self._replicas
        step_bytes = batch_size * int(np.prod(data.images.shape[1:]))
        self.most_steps = int(np.clip(_BLOCK_BYTES // max(step_bytes, 1), 1, 64))
        self._slots = slice(first * share, (first + self._local_replicas) * share)

    def block(self, first_step: int, count: int, capacity: int) -> tuple[tf.Tensor, ...]:
        """Returns the worker's share of the images and labels.

        Images are uint8 [capacity, local batch, h, w, c], labels int32 [capacity, local batch].
        """
        size = self._batch_size
        places = self._order.places(first_step * size, count * size).reshape(count, size)
        places = places[:, self._slots]
        images = np.zeros([capacity, places.shape[1], *self._data.images.shape[1:]], np.uint8)
        labels = np.zeros([capacity, places.shape[1]], np.int32)
        images[:count] = self._data.images[places]
        labels[:count] = self._data.labels[places]
        return tf.constant(images), tf.constant(labels)

    def resident(self) -> tuple[Any, ...]:
        """Returns an empty tuple, because nothing stays on the devices."""
        return ()

    def batch(
        self, row: Sequence[tf.Tensor], resident: Sequence[tf.Tensor], replica: tf.Tensor | int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Slices the replica's share from the images of the worker."""
        del resident
        share = self._batch_size // self._replicas
        start = (replica % self._local_replicas) * share
        images, labels = row
        shape = images.shape.as_list()
        return (
            tf.ensure_shape(images[start : start + share], [share, *shape[1:]]),
            tf.ensure_shape(labels[start : start + share], [share]),
        )


def build_feed(
    data: ImageSet, batch_size: int, order: Order, strategy: Any, *, resident_limit_bytes: int
) -> Feed:
    """Builds a resident feed if the set is within the limit, otherwise a streamed one.

    Without a GPU the copy on the device would take the memory that a file of images saves.
    """
    mapped = isinstance(data.images, np.memmap)
    gpus = tf.config.list_logical_devices("GPU")
    if (mapped and not gpus) or data.images.nbytes > resident_limit_bytes:
        return StreamedFeed(data, batch_size, order, strategy)
    return ResidentFeed(data, batch_size, order, strategy)
