"""Sums values over replicas inside the loss, in the same order on every replica.

A device that computes a batch in parts (`parts.py`) takes each for a replica.

Normalisation statistics and joint class counts of the global batch are sums over replicas, and so
are their gradients. The order in which a gradient tape visits parallel branches is unspecified;
replicas that executed different sums at once would silently mix up values of equal shapes.
Therefore each sum passes a scalar, always 0, to the next one, and the gradient of the scalar makes
the backward sums run one after another in the reverse order.
"""

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf

from trainer.optimization.parts import current_part


class _Chain(threading.local):
    """The scalar of this replica's thread while a loss is traced."""

    token: tf.Tensor | None = None


_CHAIN = _Chain()


@contextlib.contextmanager
def ordered_sums() -> Iterator[None]:
    """Opens the scope of one loss, in which sums run one after another."""
    _CHAIN.token = tf.constant([0.0])
    try:
        yield
    finally:
        _CHAIN.token = None


def replica_count() -> int:
    """Returns the number of replicas that run this code in step; 1 outside a replica context."""
    part = current_part()
    if part is not None:
        return part.count
    replica = tf.distribute.get_replica_context()
    return 1 if replica is None else int(replica.num_replicas_in_sync)


def has_own_variables() -> bool:
    """Returns whether this replica updates its copy of the variables.

    Parts share theirs, which only the first one may update.
    """
    part = current_part()
    return part is None or part.number == 0


def replica_mean(value: tf.Tensor) -> tf.Tensor:
    """Computes the differentiable mean of a floating-point tensor over all replicas.

    Raises:
        RuntimeError: called outside `ordered_sums` with several replicas.
    """
    replicas = replica_count()
    if replicas == 1:
        return value
    if _CHAIN.token is None:
        raise RuntimeError("replica_mean with several replicas must be within ordered_sums()")
    token = tf.cast(_CHAIN.token, value.dtype)
    flat = tf.concat([tf.reshape(value, [-1]), token], axis=0)
    part = current_part()
    if part is None:
        summed = tf.distribute.get_replica_context().all_reduce("sum", flat)
    else:
        summed = part.sum(flat)
    _CHAIN.token = tf.cast(summed[-1:], tf.float32)
    return tf.reshape(summed[:-1], value.shape) / replicas
