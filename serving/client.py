"""A client of TF Serving over gRPC or REST: batches, timeouts, retries, errors in one line.

`vaeline predict` uses it, and programs that ask a server. REST needs neither TensorFlow nor gRPC;
gRPC imports TensorFlow, because TF Serving's messages are TensorFlow's.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import numpy as np

from serving import predictions
from serving.predictions import Prediction, ServingError

_T = TypeVar("_T")
_RETRYABLE: Final = frozenset({"UNAVAILABLE"})
"""Nothing was computed: no connection, no such model loaded yet, or the batching queue is full.
A deadline that passed is not tried again: it would only load the server more."""


class Transport(Protocol):
    """One way of asking a server; raises ServingError with the status code."""

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Sends one request."""
        ...

    def signatures(self) -> dict[str, dict[str, list[str]]]:
        """Asks for the names of inputs and outputs by signature."""
        ...

    def served_versions(self) -> list[int]:
        """Asks for the versions that answer, oldest first."""
        ...

    def close(self) -> None:
        """Closes the connections."""
        ...


class PredictClient:
    """Asks a model server.

    Args:
        target: `grpc://host:8500`, `grpcs://host:443`, `http://host:8501` or `https://host/path`.
        model: The model's name on the server.
        version: Of the model; None: the one that the server prefers, the newest.
        timeout_secs: Of one request.
        attempts: How often a request is sent that meets no ready server.
        first_pause_secs: Before the second attempt; doubled each time, with jitter.
        max_batch: Most images of one request; larger inputs are cut and joined again.

    Raises:
        ServingError: The target is no address of a server.
    """

    def __init__(
        self,
        target: str,
        *,
        model: str = "vaeline",
        version: int | None = None,
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

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answers one signature.

        Args:
            signature: Its name, as in `serving/names.py`.
            inputs: Arrays by input name, all of the same length along the first axis; strings as
                arrays of `bytes` objects.

        Returns:
            Arrays by output name, of the inputs' length; strings as arrays of `bytes` objects.

        Raises:
            ServingError: The server can't be reached, or refuses; `code` says which.
        """
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        counts = {len(array) if array.ndim else -1 for array in arrays.values()}
        if len(counts) != 1 or -1 in counts:
            raise ServingError(
                f"{signature}: inputs have to be arrays of one length, got "
                + ", ".join(f"{name} {array.shape}" for name, array in arrays.items()),
                predictions.INVALID_ARGUMENT,
            )
        (count,) = counts
        parts = []
        for begin in range(0, max(count, 1), self._max_batch):
            part = {name: a[begin : begin + self._max_batch] for name, a in arrays.items()}
            parts.append(self._retried(lambda part=part: self._transport.predict(signature, part)))  # type: ignore[misc]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def classify(self, images: Sequence[bytes]) -> list[Prediction]:
        """Classifies image files, all or none; see `predictions.classify`."""
        return predictions.classify(self, images)

    def classify_each(self, images: Sequence[bytes]) -> list[Prediction | ServingError]:
        """Classifies image files; a bad one does not spoil the others."""
        return predictions.classify_each(self, images)

    def signatures(self) -> dict[str, dict[str, list[str]]]:
        """Lists the served signatures: `{"embed": {"inputs": [...], "outputs": [...]}}`."""
        return self._retried(self._transport.signatures)

    def served_versions(self) -> list[int]:
        """Lists the versions that answer at present, oldest first."""
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
            # Jitter, so that clients that failed together don't come back together.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2
        raise AssertionError("unreachable")


def _connect(target: str, model: str, version: int | None, timeout_secs: float) -> Transport:
    scheme, _, host = target.partition("://")
    if scheme in ("grpc", "grpcs") and host:
        from serving.grpc_transport import GrpcTransport

        return GrpcTransport(
            host, model=model, version=version, timeout_secs=timeout_secs, tls=scheme == "grpcs"
        )
    if scheme in ("http", "https") and host:
        from serving.rest_transport import RestTransport

        return RestTransport(target, model=model, version=version, timeout_secs=timeout_secs)
    raise ServingError(
        f"{target}: no address of a server; give grpc://host:8500 or http://host:8501",
        predictions.INVALID_ARGUMENT,
    )
