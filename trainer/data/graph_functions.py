"""Makes graph functions that many others call, and runs graph functions that are called once.

Transform's graph and the signatures use it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


def traced_once(spec: tf.TensorSpec) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator that turns a function of one tensor into a graph function.

    A `tf.function` is traced once for calls in graphs, once for calls outside of them, and again
    while a SavedModel that calls it is written.

    Args:
        spec: shape and dtype of the argument.
    """

    def trace(function: Callable[..., Any]) -> Callable[..., Any]:
        with tf.init_scope():
            graph = tf.function(function, input_signature=[spec], autograph=False)
            return graph.get_concrete_function()

    return trace


@contextlib.contextmanager
def unoptimised() -> Iterator[None]:
    """Lets graph functions run as they were traced, in the block.

    TensorFlow optimises a function at its first call, which takes it a second for those that read
    image files: a hundred times as long as a single call.
    """
    optimizer, name = tf.config.optimizer, "disable_meta_optimizer"
    before = optimizer.get_experimental_options().get(name, False)
    optimizer.set_experimental_options({name: True})
    try:
        yield
    finally:
        optimizer.set_experimental_options({name: before})
