"""A SavedModel in a TF1-style session, which is how TF Serving's C++ loader reads and runs it."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from components.serving_check.requests import Input

_SERVE = "serve"


class SessionModel:
    """A loaded model.

    Args:
        path: Folder of the SavedModel.

    Attributes:
        inputs: what each signature takes, by signature and input name.
    """

    def __init__(self, path: str) -> None:
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph)
        with self._graph.as_default():
            meta = tf.compat.v1.saved_model.load(self._session, [_SERVE], path)
        self._signatures = {
            name: definition
            for name, definition in meta.signature_def.items()
            # TensorFlow's own entries start with two underscores.
            if not name.startswith("__")
        }
        self.inputs = {
            name: {key: _input(info) for key, info in definition.inputs.items()}
            for name, definition in self._signatures.items()
        }

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a signature.

        Raises:
            tf.errors.OpError: The model refuses the request.
        """
        definition = self._signatures[signature]
        fetches = {name: info.name for name, info in definition.outputs.items()}
        feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
        return dict(self._session.run(fetches, feeds))

    def close(self) -> None:
        """Gives the session's memory back."""
        self._session.close()


def _input(info: "tf.compat.v1.TensorInfo") -> Input:
    sides = () if info.tensor_shape.unknown_rank else info.tensor_shape.dim
    return Input(tf.as_dtype(info.dtype).name, tuple(side.size for side in sides))
