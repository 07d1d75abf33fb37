"""Makes graph functions that many others call; Transform's graph and the signatures use it."""

from collections.abc import Callable
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
