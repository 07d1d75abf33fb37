"""Runs a SavedModel in this process with a server's interface, for `vaeline predict --model`."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from serving import predictions
from serving.loading import load_saved_model
from serving.predictions import Prediction, ServingError, one_line


class LocalModel:
    """Loads a SavedModel and calls its signatures.

    Args:
        folder: Folder of the SavedModel, local or in a store.

    Raises:
        InputError: The model cannot be loaded.
    """

    def __init__(self, folder: str) -> None:
        self._model = load_saved_model(folder)
        self._folder = folder

    def predict(self, signature: str, inputs: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
        """Calls one signature; see `PredictClient.predict`."""
        known = self._model.signatures
        if signature not in known:
            raise ServingError(
                f"{self._folder}: the model has no signature {signature!r}; it has "
                + ", ".join(sorted(known)),
                predictions.FAILED_PRECONDITION,
            )
        arrays = {name: predictions.as_array(value) for name, value in inputs.items()}
        predictions.require_pixels(arrays)
        try:
            outputs = known[signature](**{name: tf.constant(a) for name, a in arrays.items()})
        except (TypeError, ValueError) as error:
            # Other names, types or numbers of axes than those of the signature.
            raise ServingError(
                f"{signature}: {one_line(str(error))}", predictions.INVALID_ARGUMENT
            ) from error
        except tf.errors.OpError as error:
            code = predictions.INVALID_ARGUMENT
            if not isinstance(error, tf.errors.InvalidArgumentError):
                code = type(error).__name__
            raise ServingError(one_line(error.message), code) from error
        return {name: value.numpy() for name, value in outputs.items()}

    def classify(self, images: Sequence[bytes]) -> list[Prediction]:
        """Classifies all image files, or fails."""
        return predictions.classify(self, images)
