"""Draws the training step's noise as a function of seed, step and position in the global batch.

The noise is stateless, so a checkpoint stores no random state. The objective, the augmentation and
dropout draw from it. Under tf.distribute, Keras's own seed generators give every replica the same
noise (keras-team/keras#20611). Here each replica gets its slice of the noise of the global batch,
so replicas differ but together draw the same noise as a single device.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import tensorflow as tf

Shape = Sequence[int | tf.Tensor]
"""A shape whose batch size may be known only in the graph."""


def shape_of(values: tf.Tensor) -> list[int | tf.Tensor]:
    """Returns a tensor's shape: integers for static dimensions, scalar tensors otherwise."""
    known = values.shape.as_list()
    if None not in known:
        return known
    found = tf.shape(values)
    return [found[axis] if size is None else size for axis, size in enumerate(known)]


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise of one step on one replica.

    Attributes:
        seed: the configured seed.
        step: int32 scalar.
        replica: index of this replica, 0-based.
        replicas: number of replicas.
    """

    seed: int
    step: tf.Tensor | int
    replica: tf.Tensor | int = 0
    replicas: int = 1

    def _key(self, stream: str) -> tf.Tensor:
        mixed = (zlib.crc32(stream.encode()) ^ self.seed) & 0x7FFFFFFF
        return tf.stack([tf.constant(mixed, tf.int32), tf.cast(self.step, tf.int32)])

    def _local(self, values: tf.Tensor, batch: int | tf.Tensor, axis: int) -> tf.Tensor:
        if self.replicas == 1:
            return values
        places = tf.range(batch) + self.replica * batch
        return tf.gather(values, places, axis=axis)

    def _global_shape(self, shape: Shape, axis: int) -> list[int | tf.Tensor]:
        return [n * self.replicas if i == axis else n for i, n in enumerate(shape)]

    def uniform(self, stream: str, shape: Shape, *, axis: int = 0) -> tf.Tensor:
        """Draws uniform noise in [0, 1).

        Args:
            stream: name of the use; two uses with the same name in a step get the same numbers.
            shape: this replica's shape.
            axis: the batch axis.

        Returns:
            float32 of `shape`.
        """
        values = tf.random.stateless_uniform(
            self._global_shape(shape, axis), self._key(stream), alg="philox"
        )
        return self._local(values, shape[axis], axis)

    def normal(self, stream: str, shape: Shape, *, axis: int = 0) -> tf.Tensor:
        """Draws standard normal noise; arguments as for `uniform`."""
        values = tf.random.stateless_normal(
            self._global_shape(shape, axis), self._key(stream), alg="philox"
        )
        return self._local(values, shape[axis], axis)

    def dropout(self, stream: str, values: tf.Tensor, rate: float) -> tf.Tensor:
        """Sets a share `rate` of `values` [batch, ...] to 0 and scales up the rest."""
        if rate == 0:
            return values
        keep = self.uniform(stream, shape_of(values)) >= rate
        return tf.where(keep, values / (1.0 - rate), tf.zeros_like(values))
