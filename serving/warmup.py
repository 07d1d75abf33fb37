"""Writes warm-up requests, which TF Serving replays before it makes a new version available.

Without them, the first requests to a version wait for TensorFlow's lazy initialisation.
"""

from typing import Final

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving import names

_BATCHES: Final = (1, 32)
_BYTES_SIGNATURES: Final = (names.SERVING_DEFAULT, names.ANNOTATE, names.EMBED, names.SCORE)


def write_warm_up(path: str, image_shape: tuple[int, int, int]) -> None:
    """Writes requests for the main signatures, with one image and with a batch.

    Args:
        path: `assets.extra/tf_serving_warmup_requests` of a SavedModel.
        image_shape: height, width and channels of the model's images.
    """
    image = np.random.default_rng(0).integers(0, 256, image_shape, np.uint8)
    file = tf.io.encode_png(image).numpy()
    with tf.io.TFRecordWriter(path) as writer:
        for count in _BATCHES:
            files = np.array([file] * count, object)
            for signature in _BYTES_SIGNATURES:
                writer.write(_log(signature, names.IMAGE_BYTES, files))
            pixels = np.repeat(image[np.newaxis], count, axis=0)
            writer.write(_log(names.ANNOTATE_PIXELS, names.PIXELS, pixels))


def _log(signature: str, argument: str, values: np.ndarray) -> bytes:
    request = predict_pb2.PredictRequest()
    # TF Serving fills in the name of the model.
    request.model_spec.signature_name = signature
    request.inputs[argument].CopyFrom(tf.make_tensor_proto(values))
    log = prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )
    return log.SerializeToString()
