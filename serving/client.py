"""Implements a client of TF Serving over gRPC or REST, with batches, timeouts and retries.

`vaeline predict` and programs that query a server use it. REST needs neither TensorFlow nor gRPC;
gRPC imports TensorFlow, because TF Serving's messages contain those of TensorFlow.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from serving import names, predictions
from serving.predictions import Prediction, ServingError

_T = TypeVar("_T")
_RETRYABLE: Final = frozenset({"UNAVAILABLE"})
"""Status codes after which nothing was computed: there is no connection, the model is not loaded
yet, or the batching queue is full. An exceeded deadline is not retried, because retries would add
load to the server."""


class Transport(Protocol):
    """A protocol for server requests; failures raise ServingError with the status code."""

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Sends one request."""
        ...

    def signatures(self) -> dict[str, dict[str, list[str]]]:
        """Requests the names of inputs and outputs by signature."""
        ...

    def served_versions(self) -> list[int]:
        """Requests the available versions, oldest first."""
        ...

    def close(self) -> None:
        """Closes the connections."""
        ...


class PredictClient:
    """Sends requests to a model server.

    Args:
        target: `grpc://host:8500`, `grpcs://host:443`, `http://host:8501` or `https://host/path`.
        model: The model's name on the server.
        version: Version of the model: its number, or one of the server's version labels; None for
            the server's default, the newest.
        timeout_secs: Timeout of one request.
        attempts: Number of attempts while no server is ready.
        first_pause_secs: Pause before the second attempt; doubled each time, with jitter.
        max_batch: Largest number of images per request; larger inputs are split and the results
            joined.

    Raises:
        ServingError: The target is not a valid server address.
    """

    def __init__(
        self,
        target: str,
        *,
        model: str = "vaeline",
        version: int | str | None = None,
        timeout_secs: float = 10.0,
        attempts: int = 4,
        first_pause_secs: float = 0.2,
        max_batch: int = 64,
    ) -> None:
        if timeout_secs <= 0 or attempts < 1 or max_batch < 1:
            raise ValueError(
                f"timeout_secs {timeout_secs}, attempts {attempts} and max_batch {max_batch} have"
                " to be above 0"
            )
        self.target = target.rstrip("/")
        self._attempts = attempts
        self._pause_secs = first_pause_secs
        self._max_batch = max_batch
        self._transport = _connect(self.target, model, version, timeout_secs)

    def predict(self, signature: str, inputs: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
        """Calls one signature.

        Args:
            signature: Name of the signature, as in `serving/names.py`.
            inputs: Arrays or lists by input name, all of the same length along the first axis, but
                scalars of the signature's types for `sample`; strings are `bytes` objects.

        Returns:
            Arrays by output name, of the inputs' length, or of `count`; strings are arrays of
            `bytes` objects.

        Raises:
            ServingError: The server cannot be reached or rejects the request; `code` tells which.
                `pixels` of another type or layout are rejected before they are sent.
        """
        arrays = {name: predictions.as_array(value) for name, value in inputs.items()}
        if names.COUNT in arrays:
            # `sample` takes scalars.
            return self._retried(partial(self._transport.predict, signature, arrays))
        counts = {len(array) if array.ndim else -1 for array in arrays.values()}
        if len(counts) != 1 or -1 in counts:
            raise ServingError(
                f"{signature}: inputs have to be lists or arrays of one length, got "
                + ", ".join(f"{name} of shape {array.shape}" for name, array in arrays.items()),
                predictions.INVALID_ARGUMENT,
            )
        predictions.require_pixels(arrays)
        (count,) = counts
        parts = []
        for begin in range(0, max(count, 1), self._max_batch):
            part = {name: a[begin : begin + self._max_batch] for name, a in arrays.items()}
            parts.append(self._retried(partial(self._transport.predict, signature, part)))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def classify(self, images: Sequence[bytes]) -> list[Prediction]:
        """Classifies all image files, or fails; see `predictions.classify`."""
        return predictions.classify(self, images)

    def classify_each(self, images: Sequence[bytes]) -> list[Prediction | ServingError]:
        """Classifies image files; a bad one does not affect the others."""
        return predictions.classify_each(self, images)

    def signatures(self) -> dict[str, dict[str, list[str]]]:
        """Lists the served signatures: `{"embed": {"inputs": [...], "outputs": [...]}}`."""
        return self._retried(self._transport.signatures)

    def served_versions(self) -> list[int]:
        """Lists the available versions, oldest first."""
        return self._retried(self._transport.served_versions)

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        """Returns the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the connections."""
        self.close()

    def _retried(self, request: Callable[[], _T]) -> _T:
        pause = self._pause_secs
        for attempt in range(1, self._attempts + 1):
            try:
                return request()
            except ServingError as error:
                if error.code not in _RETRYABLE:
                    raise
                if attempt == self._attempts:
                    raise ServingError(
                        f"{self.target}: no answer in {attempt} attempts: {error}", error.code
                    ) from error
            # With jitter, clients that failed together do not retry together.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2
        raise AssertionError("unreachable")


def _connect(target: str, model: str, version: int | str | None, timeout_secs: float) -> Transport:
    scheme, _, host = target.partition("://")
    if scheme in ("grpc", "grpcs") and host:
        from serving.grpc_transport import GrpcTransport

        return GrpcTransport(
            host, model=model, version=version, timeout_secs=timeout_secs, tls=scheme == "grpcs"
        )
    if scheme in ("http", "https") and host:
        address, path, _ = target.partition("/v1/models")
        if path:
            raise ServingError(
                f"{target}: the address of a model; give that of the server, {address}, and the"
                " model's name and version apart",
                predictions.INVALID_ARGUMENT,
            )
        from serving.rest_transport import RestTransport

        return RestTransport(target, model=model, version=version, timeout_secs=timeout_secs)
    raise ServingError(
        f"{target}: no address of a server; give grpc://host:8500 or http://host:8501",
        predictions.INVALID_ARGUMENT,
    )
