"""Loads a SavedModel in a TF1-style session, as TF Serving's C++ loader does."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from components.serving_check.requests import Input

_SERVE = "serve"


def session_options() -> tf.compat.v1.ConfigProto:
    """Returns options with which the first calls of all signatures take the least time."""
    # With several threads, the calls of one function that start together optimise a copy each.
    # Within an op, all threads work.
    options = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=1, use_per_session_threads=True)
    # A server optimises the graph twice; the second pass changes next to nothing here and would
    # cost half a minute over all signatures.
    options.graph_options.rewrite_options.meta_optimizer_iterations = 1
    return options


class SessionModel:
    """Runs a loaded model in a session.

    Args:
        path: Folder of the SavedModel.

    Attributes:
        inputs: The inputs of each signature, by signature and input name.
    """

    def __init__(self, path: str) -> None:
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=session_options())
        with self._graph.as_default():
            meta = tf.compat.v1.saved_model.load(self._session, [_SERVE], path)
        self._signatures = {
            name: definition
            for name, definition in meta.signature_def.items()
            # Names with two leading underscores are TensorFlow's own entries.
            if not name.startswith("__")
        }
        self.inputs = {
            name: {key: _input(info) for key, info in definition.inputs.items()}
            for name, definition in self._signatures.items()
        }

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a signature.

        Raises:
            tf.errors.OpError: if the model rejects the request.
        """
        return self.predict_together({signature: inputs})[signature]

    def predict_together(
        self, requests: Mapping[str, Mapping[str, np.ndarray]]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Runs several signatures in one call.

        TensorFlow optimises the graph for each new set of signatures, which takes one to three
        seconds; running them together takes that time only once.

        Args:
            requests: Inputs by signature and input name.

        Returns:
            Outputs by signature and output name.

        Raises:
            tf.errors.OpError: if the model rejects one of the requests.
        """
        fetches: dict[str, dict[str, str]] = {}
        feeds: dict[str, np.ndarray] = {}
        for signature, inputs in requests.items():
            definition = self._signatures[signature]
            fetches[signature] = {name: info.name for name, info in definition.outputs.items()}
            feeds |= {definition.inputs[name].name: value for name, value in inputs.items()}
        return dict(self._session.run(fetches, feeds))

    def close(self) -> None:
        """Releases the session's memory."""
        self._session.close()


def _input(info: "tf.compat.v1.TensorInfo") -> Input:
    sides = () if info.tensor_shape.unknown_rank else info.tensor_shape.dim
    return Input(tf.as_dtype(info.dtype).name, tuple(side.size for side in sides))
