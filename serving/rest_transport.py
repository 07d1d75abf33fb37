"""Calls TF Serving's REST API with typed arrays; the client uses it for http targets.

JSON has no types, so the model's metadata is requested once, and responses get its dtypes. The
format is the columnar one of TF Serving's api_rest.md.
"""

import base64
import http.client
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

import numpy as np
import requests

from serving.predictions import INVALID_ARGUMENT, ServingError, one_line

_CODES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    412: "FAILED_PRECONDITION",
    413: "INVALID_ARGUMENT",
    # Proxies return these codes when they are overloaded or cannot reach a server.
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    501: "UNIMPLEMENTED",
    504: "DEADLINE_EXCEEDED",
}
_DTYPES: Final[dict[str, Any]] = {
    "DT_STRING": object,
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_INT64": np.int64,
    "DT_INT32": np.int32,
    "DT_UINT8": np.uint8,
    "DT_BOOL": np.bool_,
}


class _Output(NamedTuple):
    """An output of a signature, by the model's metadata.

    Attributes:
        dtype: NumPy's type.
        shape: The shape, with -1 for a dimension of any size; () if it is unknown.
    """

    dtype: Any
    shape: tuple[int, ...]

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Self:
        sides = entry.get("tensor_shape", {}).get("dim", [])
        dtype = _DTYPES.get(entry.get("dtype", ""), np.float32)
        return cls(dtype, tuple(int(side["size"]) for side in sides))


class RestTransport:
    """Sends requests over HTTP.

    Args:
        target: `http://host:8501`, or an https address; a path before `/v1` is kept.
        model: The model's name on the server.
        version: Number or label of the model's version; None for the server's default.
        timeout_secs: Timeout to connect, and between two parts of a response.
    """

    def __init__(
        self, target: str, *, model: str, version: int | str | None, timeout_secs: float
    ) -> None:
        self._target = target
        self._model = f"{target}/v1/models/{model}"
        self._place = self._model
        if version is not None:
            kind = "labels" if isinstance(version, str) else "versions"
            self._place += f"/{kind}/{quote(str(version), safe='')}"
        self._timeout_secs = timeout_secs
        self._session = requests.Session()
        self._outputs: dict[str, dict[str, _Output]] = {}

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Sends one request; see `PredictClient.predict`."""
        known = self._outputs_of(signature)
        body = {
            "signature_name": signature,
            "inputs": {name: _to_json(name, array) for name, array in inputs.items()},
        }
        answer = self._ask("POST", f"{self._place}:predict", body)
        try:
            outputs = answer["outputs"]
            if len(known) == 1:
                # The response has a single output without its name.
                outputs = dict.fromkeys(known, outputs)
            return {name: _from_json(outputs[name], output) for name, output in known.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ServingError(
                f"{self._target}: the answer does not fit the model's metadata: {error!r}",
                "INTERNAL",
            ) from error

    def signatures(self) -> dict[str, dict[str, list[str]]]:
        """Requests the model's metadata."""
        return {
            name: {side: sorted(entry.get(side, {})) for side in ("inputs", "outputs")}
            for name, entry in self._metadata().items()
        }

    def served_versions(self) -> list[int]:
        """Requests the model's status."""
        status = self._ask("GET", self._model)
        return sorted(
            int(entry["version"])
            for entry in status.get("model_version_status", [])
            if entry.get("state") == "AVAILABLE"
        )

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def _metadata(self) -> dict[str, Any]:
        found = self._ask("GET", f"{self._place}/metadata")
        try:
            return dict(found["metadata"]["signature_def"]["signature_def"])
        except (KeyError, TypeError) as error:
            raise ServingError(
                f"{self._target}: the answer is no model's metadata", "INTERNAL"
            ) from error

    def _outputs_of(self, signature: str) -> dict[str, _Output]:
        if signature not in self._outputs:
            known = self._metadata()
            if signature not in known:
                raise ServingError(
                    f"{self._target}: the model has no signature {signature!r}; it has "
                    + ", ".join(sorted(known)),
                    "FAILED_PRECONDITION",
                )
            self._outputs[signature] = {
                name: _Output.read(entry) for name, entry in known[signature]["outputs"].items()
            }
        return self._outputs[signature]

    def _ask(self, method: str, address: str, body: Any = None) -> dict[str, Any]:
        try:
            response = self._session.request(
                method, address, json=body, timeout=self._timeout_secs, allow_redirects=False
            )
        except requests.exceptions.ReadTimeout as error:
            raise ServingError(
                f"{self._target}: no answer within {self._timeout_secs:g} s", "DEADLINE_EXCEEDED"
            ) from error
        except requests.exceptions.SSLError as error:
            reason = getattr(error.args[0], "reason", error) if error.args else error
            raise ServingError(
                f"{self._target}: no encrypted connection: {one_line(str(reason))}; give http:// if"
                " the server has no certificate, or name its authority in REQUESTS_CA_BUNDLE",
                "INTERNAL",
            ) from error
        except requests.exceptions.ProxyError as error:
            raise ServingError(
                "can't connect to the proxy that the environment names; correct HTTP_PROXY or"
                " HTTPS_PROXY, or name the server in NO_PROXY",
                "UNAVAILABLE",
            ) from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise ServingError(_no_connection(error), "UNAVAILABLE") from error
        except requests.exceptions.ChunkedEncodingError as error:
            raise ServingError(f"{self._target}: the answer broke off", "INTERNAL") from error
        except (requests.exceptions.RequestException, ValueError) as error:
            raise ServingError(f"{self._target}: {one_line(str(error))}", "INTERNAL") from error
        try:
            answer = response.json()
        except requests.exceptions.JSONDecodeError:
            answer = None
        if response.status_code == requests.codes.ok and isinstance(answer, dict):
            return answer
        reason = answer.get("error") if isinstance(answer, dict) else None
        text = one_line(str(reason)) if reason else _not_tf_serving(response)
        code = _CODES.get(response.status_code, "INTERNAL")
        # For this code the client itself names the target, after its last attempt.
        found = ServingError(text if code == "UNAVAILABLE" else f"{self._target}: {text}", code)
        if code == "INVALID_ARGUMENT" and body is None and not found.is_unknown_model:
            # The question held no images, whose fault it could be.
            found.code = "INTERNAL"
        raise found


def _no_connection(error: requests.RequestException) -> str:
    causes = getattr(error.args[0], "args", ()) if error.args else ()
    # A connection that is closed without an answer is a subclass.
    if any(type(cause) is http.client.BadStatusLine for cause in causes):
        return "the port answers, but not in HTTP; TF Serving's gRPC port takes grpc://"
    return "can't connect; is the server up?"


def _not_tf_serving(response: requests.Response) -> str:
    """Describes an answer that is none of TF Serving's, such as a proxy's page or redirect."""
    status = f"HTTP {response.status_code} {response.reason or ''}".strip()
    if response.status_code == requests.codes.request_entity_too_large:
        return f"{status}: a proxy before the server refuses requests of this size"
    return f"{status}, and the answer is not TF Serving's; check the address"


def _to_json(name: str, array: np.ndarray) -> Any:
    """Converts an array to nested lists; strings become `{"b64": ...}` as for binary values."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ServingError(
            f"{name} has NaN or infinite numbers, which JSON can't express", INVALID_ARGUMENT
        )
    if array.dtype.kind not in "OSU":
        return array.tolist()
    flat = [_b64(value) for value in array.reshape(-1).tolist()]
    places = np.empty(array.size, object)
    places[:] = flat
    return places.reshape(array.shape).tolist()


def _b64(value: bytes | str) -> dict[str, str]:
    content = value if isinstance(value, bytes) else value.encode()
    return {"b64": base64.b64encode(content).decode("ascii")}


def _from_json(value: Any, output: _Output) -> np.ndarray:
    found = _strings(value) if output.dtype is object else np.asarray(value, output.dtype)
    if value == [] and len(output.shape) > 1:
        # An empty list does not tell the number of axes.
        return found.reshape([0, *(max(side, 0) for side in output.shape[1:])])
    return found


def _strings(value: Any) -> np.ndarray:
    """Reads nested lists of text, or of `{"b64": ...}` if an output's name ends in `_bytes`."""
    if isinstance(value, list):
        rows = [_strings(row) for row in value]
        return np.stack(rows) if rows else np.empty(0, object)
    content = base64.b64decode(value["b64"]) if isinstance(value, dict) else str(value).encode()
    return np.array(content, object)
