"""A stand-in for TF Serving: its gRPC and REST APIs over the C++ session loader, on loopback.

`serve` runs it in threads of the caller. As a program it takes flags of `tensorflow_model_server`
and runs until it is terminated. Like the real server it serves the highest version below
`--model_base_path`, or what the model config file says, looked up anew at each request. It does not
batch. Status codes and texts of errors follow TF Serving's documentation; no real server has been
held against them.
"""

import argparse
import base64
import http.server
import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format, text_format

from trainer.quick_imports import leave_out_keras, quick_imports

leave_out_keras()
with quick_imports():
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
    from tensorflow_serving.config import model_server_config_pb2

NAME = "vaeline"
HTTP = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "FAILED_PRECONDITION": 412, "UNAVAILABLE": 503,
        "INTERNAL": 500}  # fmt: skip


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Model:
    """One version in a session."""

    def __init__(self, folder: Path) -> None:
        self.version = int(folder.name)
        # What the optimiser of graphs makes of a signature, which takes seconds each, is what
        # `test_export.py` and `test_other_loaders.py` compare; here it is what is said and heard.
        options = tf.compat.v1.ConfigProto()
        options.graph_options.rewrite_options.disable_meta_optimizer = True
        self.session = tf.compat.v1.Session(graph=tf.Graph(), config=options)
        with self.session.graph.as_default():
            meta = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))
        self.calls: dict[str, Any] = {}
        self.signatures = {
            name: signature
            for name, signature in meta.signature_def.items()
            if not name.startswith("__")
        }

    def run(self, signature: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        definition = self.signatures[signature]
        if set(inputs) != set(definition.inputs):
            raise RefusedError(
                "INVALID_ARGUMENT",
                f"input size does not match signature: {len(inputs)}!={len(definition.inputs)}"
                f" len({{{','.join(sorted(inputs))}}}) != len({{{','.join(definition.inputs)}}})",
            )
        if signature not in self.calls:
            # Not `run`, which compares shapes and converts types; a server's session does not.
            options = config_pb2.CallableOptions(
                feed=[tensor.name for tensor in definition.inputs.values()],
                fetch=[tensor.name for tensor in definition.outputs.values()],
            )
            self.calls[signature] = self.session._make_callable_from_options(options)
        fed = [inputs[name] for name in definition.inputs]
        try:
            return dict(zip(definition.outputs, self.calls[signature](*fed), strict=True))
        except tf.errors.InvalidArgumentError as error:
            raise RefusedError("INVALID_ARGUMENT", error.message) from error
        except (ValueError, TypeError) as error:
            raise RefusedError("INVALID_ARGUMENT", str(error)) from error


class Manager:
    """Loads the versions that the config file names, or that TF Serving's default policy serves."""

    def __init__(
        self, folder: Path | None, config: Path | None, *, fail: int = 0, delay: float = 0.0
    ) -> None:
        self.folder = folder
        self.config = config
        self.fail = fail
        self.delay = delay
        self.lock = threading.Lock()
        self.models: dict[int, Model] = {}

    def get(self, name: str, version: int | str | None) -> Model:
        with self.lock:
            folder, wanted, labels = self._wanted()
            self.models = {
                number: self.models.get(number) or Model(folder / str(number)) for number in wanted
            }
            models = self.models
        if isinstance(version, str):
            if version not in labels:
                raise RefusedError(
                    "INVALID_ARGUMENT", f"Unrecognized servable version label: {version}"
                )
            version = labels[version]
        number = max(models, default=None) if version is None else version
        if name != NAME or number not in models:
            text = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RefusedError("NOT_FOUND", f"Servable not found for request: {text}")
        return models[number]

    def asked(self, name: str, version: int | str | None) -> list[Model]:
        """Returns the versions that a request for the status is about."""
        model = self.get(name, version)
        return list(self.models.values()) if version is None else [model]

    def _wanted(self) -> tuple[Path, list[int], dict[str, int]]:
        """Returns the folder, the numbers to serve and the labels."""
        entry = model_server_config_pb2.ModelConfig()
        if self.config is not None:
            parsed = text_format.Parse(
                self.config.read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig()
            )
            (entry,) = parsed.model_config_list.config
        folder = Path(entry.base_path) if self.folder is None else self.folder
        numbers = [int(e.name) for e in folder.iterdir() if e.name.isdecimal()]
        specific = entry.model_version_policy.specific.versions
        wanted = [number for number in specific if number in numbers] or sorted(numbers)[-1:]
        return folder, wanted, dict(entry.version_labels)

    def close(self) -> None:
        """Ends the sessions."""
        for model in self.models.values():
            model.session.close()

    def disturb(self) -> None:
        """Fails or delays a Predict, as told."""
        with self.lock:
            failing = self.fail > 0
            self.fail -= 1
        if failing:
            raise RefusedError("UNAVAILABLE", "The batch scheduling queue to which this task was "
                          "submitted is full")  # fmt: skip
        time.sleep(self.delay)


def spec_of(spec: Any) -> tuple[str, int | str | None]:
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label":
        return spec.name, spec.version_label
    return spec.name, spec.version.value if choice == "version" else None


def metadata(model: Model) -> get_model_metadata_pb2.GetModelMetadataResponse:
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = NAME
    response.model_spec.version.value = model.version
    found = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in model.signatures.items():
        found.signature_def[name].CopyFrom(signature)
    response.metadata["signature_def"].Pack(found)
    return response


def status(models: list[Model]) -> get_model_status_pb2.GetModelStatusResponse:
    response = get_model_status_pb2.GetModelStatusResponse()
    for model in models:
        response.model_version_status.add(
            version=model.version, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE
        )
    return response


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    """The gRPC API."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            self.manager.disturb()
            model = self.manager.get(*spec_of(request.model_spec))
            signature = request.model_spec.signature_name or "serving_default"
            if signature not in model.signatures:
                raise RefusedError("FAILED_PRECONDITION",
                              f'Serving signature key "{signature}" not found.')  # fmt: skip
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            outputs = model.run(signature, inputs)
        except RefusedError as refusal:
            context.abort(getattr(grpc.StatusCode, refusal.code), str(refusal))
        spec = model_pb2.ModelSpec(name=NAME, signature_name=signature)
        spec.version.value = model.version
        response = predict_pb2.PredictResponse(model_spec=spec)
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        if list(request.metadata_field) != ["signature_def"]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "GetModelMetadataRequest must specify"
                          " at least one metadata_field")  # fmt: skip
        try:
            return metadata(self.manager.get(*spec_of(request.model_spec)))
        except RefusedError as refusal:
            context.abort(getattr(grpc.StatusCode, refusal.code), str(refusal))


class Statuses(model_service_pb2_grpc.ModelServiceServicer):
    """The part of the model service that asks."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            return status(self.manager.asked(*spec_of(request.model_spec)))
        except RefusedError as refusal:
            context.abort(getattr(grpc.StatusCode, refusal.code), str(refusal))


PATH = re.compile(r"^/v1/models/(?P<name>[^/:]+)"
                  r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
                  r"(?P<what>/metadata|:predict)?$")  # fmt: skip


class Rest(http.server.BaseHTTPRequestHandler):
    """The REST API."""

    manager: Manager
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            match = PATH.match(self.path)
            if match is None or (match["what"] == ":predict") != (method == "POST"):
                raise RefusedError("INVALID_ARGUMENT", f"Malformed request: {method} {self.path}")
            version = int(match["version"]) if match["version"] else match["label"]
            if match["what"] == ":predict":
                self.manager.disturb()
            model = self.manager.get(match["name"], version)
            if match["what"] == ":predict":
                code, answer = 200, predict(model, body)
            else:
                found = (
                    metadata(model)
                    if match["what"]
                    else status(self.manager.asked(match["name"], version))
                )
                code, answer = (
                    200,
                    json_format.MessageToDict(found, preserving_proto_field_name=True),
                )
                if match["what"]:
                    answer["metadata"]["signature_def"].pop("@type")
        except RefusedError as refusal:
            code, answer = HTTP[refusal.code], {"error": str(refusal)}
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""


def predict(model: Model, body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise RefusedError("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
    signature = request.get("signature_name", "serving_default")
    if signature not in model.signatures:
        raise RefusedError(
            "INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def'
        )
    definition = model.signatures[signature]
    by_row = "instances" in request
    values = request["instances" if by_row else "inputs"]
    if by_row and not (values and isinstance(values[0], dict) and "b64" not in values[0]):
        values = {next(iter(definition.inputs)): values}
    elif by_row:
        values = {name: [row[name] for row in values] for name in values[0]}
    elif not isinstance(values, dict) or "b64" in values:
        values = {next(iter(definition.inputs)): values}
    inputs = {}
    for name, value in values.items():
        if name not in definition.inputs:
            raise RefusedError("INVALID_ARGUMENT", f"JSON object does not have input {name}")
        kind = tf.as_dtype(definition.inputs[name].dtype)
        inputs[name] = from_json(value, name) if kind == tf.string else numbers(value, kind)
    outputs = {name: to_json(v, name) for name, v in model.run(signature, inputs).items()}
    if not by_row:
        return {"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs}
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return {"predictions": next(iter(outputs.values())) if len(outputs) == 1 else rows}


def numbers(value: Any, kind: tf.DType) -> np.ndarray:
    given = np.array(value)
    if kind.is_integer and given.size and given.dtype.kind not in "iu":
        raise RefusedError("INVALID_ARGUMENT", f"JSON Value: {given.flat[0]} Type: Number is not of"
                           f" expected type: {kind.name}")  # fmt: skip
    return given.astype(kind.as_numpy_dtype)


def from_json(value: Any, name: str) -> np.ndarray:
    if isinstance(value, list):
        return np.stack([from_json(item, name) for item in value]) if value else np.empty(0, object)
    if isinstance(value, dict) and set(value) == {"b64"}:
        try:
            return np.array(base64.b64decode(value["b64"], validate=True), object)
        except ValueError as error:
            raise RefusedError("INVALID_ARGUMENT", "Unable to base64 decode") from error
    if not isinstance(value, str):
        raise RefusedError("INVALID_ARGUMENT", f"JSON Value: {json.dumps(value)} Type: "
                      f"{type(value).__name__} is not of expected type: string")  # fmt: skip
    return np.array(value.encode(), object)


def to_json(value: np.ndarray, name: str) -> Any:
    def text(item: Any) -> Any:
        if isinstance(item, list):
            return [text(inner) for inner in item]
        if isinstance(item, bytes):
            encoded = base64.b64encode(item).decode()
            return {"b64": encoded} if name.endswith("_bytes") else item.decode()
        return item

    return text(value.tolist())


@contextmanager
def serve(manager: Manager, grpc_port: int = 0, rest_port: int = 0) -> Iterator[tuple[int, int]]:
    """Answers on this machine until the block ends; gives the ports of gRPC and REST.

    Args:
        manager: Has the models.
        grpc_port: Port to listen on; 0 takes a free one.
        rest_port: The same for REST.
    """
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[
        ("grpc.max_receive_message_length", -1)])  # fmt: skip
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Predictions(manager), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Statuses(manager), server)
    port = server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    handler = type("Handler", (Rest,), {"manager": manager})
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", rest_port), handler)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    try:
        yield port, rest.server_port
    finally:
        rest.shutdown()
        rest.server_close()
        server.stop(None).wait()
        manager.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rest_api_port", type=int, default=0)
    parser.add_argument("--model_name", choices=[NAME])
    parser.add_argument("--model_base_path", type=Path)
    parser.add_argument("--model_config_file", type=Path)
    for flag in ("enable_batching", "allow_version_labels_for_unavailable_models"):
        parser.add_argument(f"--{flag}", nargs="?", const=True)
    for flag in ("batching_parameters_file", "monitoring_config_file"):
        parser.add_argument(f"--{flag}", type=lambda path: Path(path).read_text(encoding="utf-8"))
    parser.add_argument("--model_config_file_poll_wait_seconds", type=int)
    options = parser.parse_args()
    manager = Manager(options.model_base_path, options.model_config_file)
    with serve(manager, options.port, options.rest_api_port):
        # As the real server does, until it is terminated.
        signal.pause()


if __name__ == "__main__":
    main()
