"""Calls TF Serving's PredictionService over gRPC; the client uses it for grpc targets.

Importing this module imports TensorFlow (4 s), because the messages of tensorflow-serving-api
contain messages that are part of the TensorFlow package.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.predictions import ServingError, one_line

_T = TypeVar("_T")
_NO_LIMIT: Final = -1
_SIGNATURE_DEF: Final = "signature_def"


class GrpcTransport:
    """Sends requests over gRPC.

    Args:
        host: `host:port`.
        model: The model's name on the server.
        version: Number or label of the model's version; None for the server's default.
        timeout_secs: Timeout of one request.
        tls: Whether to encrypt, with the system's certificates.
    """

    def __init__(
        self,
        host: str,
        *,
        model: str,
        version: int | str | None,
        timeout_secs: float,
        tls: bool = False,
    ) -> None:
        # Batches of images exceed gRPC's default limit of 4 MiB; the server has its own limit.
        options = [
            ("grpc.max_send_message_length", _NO_LIMIT),
            ("grpc.max_receive_message_length", _NO_LIMIT),
        ]
        self._target = f"{'grpcs' if tls else 'grpc'}://{host}"
        self._channel = (
            grpc.secure_channel(host, grpc.ssl_channel_credentials(), options=options)
            if tls
            else grpc.insecure_channel(host, options=options)
        )
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._spec = model_pb2.ModelSpec(name=model)
        if isinstance(version, str):
            self._spec.version_label = version
        elif version is not None:
            self._spec.version.value = version
        self._timeout_secs = timeout_secs

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Sends one request; see `PredictClient.predict`."""
        request = predict_pb2.PredictRequest(model_spec=self._spec)
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            kind = tf.string if array.dtype.kind in "OSU" else None
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array, dtype=kind))
        response = self._ask(self._prediction.Predict, request)
        return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}

    def signatures(self) -> dict[str, dict[str, list[str]]]:
        """Requests the model's metadata."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec, metadata_field=[_SIGNATURE_DEF]
        )
        response = self._ask(self._prediction.GetModelMetadata, request)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[_SIGNATURE_DEF].Unpack(found)
        return {
            name: {"inputs": sorted(entry.inputs), "outputs": sorted(entry.outputs)}
            for name, entry in found.signature_def.items()
        }

    def served_versions(self) -> list[int]:
        """Requests the model's status."""
        spec = model_pb2.ModelSpec(name=self._spec.name)
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        response = self._ask(self._status.GetModelStatus, request)
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return sorted(
            entry.version for entry in response.model_version_status if entry.state == available
        )

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _ask(self, call: Callable[..., _T], request: Any) -> _T:
        try:
            return call(request, timeout=self._timeout_secs)
        except grpc.RpcError as error:
            code = error.code().name
            reason = one_line(error.details() or "")
            if code == "UNAVAILABLE" and "parsing HTTP/2" in reason:
                reason = "the port answers, but not in gRPC; TF Serving's REST port takes http://"
            elif code == "UNAVAILABLE" and "connect" in reason:
                reason = "can't connect; is the server up?"
            elif code == "DEADLINE_EXCEEDED":
                reason = f"{self._target}: no answer within {self._timeout_secs:g} s"
            elif code != "UNAVAILABLE":
                reason = f"{self._target}: {reason}"
            raise ServingError(reason, code) from error
