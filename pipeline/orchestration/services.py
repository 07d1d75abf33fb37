"""Calls a platform's REST API and reports every failure in one line with its remedy.

The client of Kubeflow calls it: Kubeflow's SDK (2.17) requires protobuf 6, and TFX 1.16 has 4. The
client of Vertex uses Google's library and takes only the reports from here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from google.protobuf import json_format

from trainer.errors import UserError

TIMEOUT_SECS = 60.0
_TOO_MANY = 429
_ADVICE = {
    400: "the request was not understood; the versions may not fit",
    401: "sign in, or renew the token",
    403: "ask for the rights of this account",
    404: "check project, region, namespace and name",
    409: "there is one of that name already",
    _TOO_MANY: "the quota is used up; wait, or ask for more",
}


class ServiceError(UserError, ValueError):
    """Reports a failed request to a platform; the message tells which and why."""


class Service:
    """A client of one REST API.

    Args:
        address: Address of the API, including its version.
        token: Bearer token; empty if none is required.
        name: Name of the platform, for messages.
    """

    def __init__(self, address: str, *, token: str, name: str) -> None:
        self._address = address.rstrip("/")
        self._name = name
        self._session = requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Sends one request.

        Args:
            method: HTTP method.
            path: Path relative to the address.
            body: Body of the request, sent as JSON.
            query: Query parameters.

        Returns:
            The response; empty if it has no content.

        Raises:
            ServiceError: The platform cannot be reached or rejects the request.
        """
        url = f"{self._address}/{path.lstrip('/')}"
        with reported(self._name, self._address):
            answer = self._session.request(
                method, url, json=body, params=query, timeout=TIMEOUT_SECS
            )
            answer.raise_for_status()
            return dict(answer.json()) if answer.content else {}

    def pages(
        self, path: str, key: str, token_keys: tuple[str, str], query: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        """Yields the items of a paginated list.

        Args:
            path: Path of the list.
            key: Key of the items in a response.
            token_keys: Names of the page token in responses and in queries.
            query: Query parameters of every request.

        Raises:
            ServiceError: as for `call`.
        """
        token = ""
        while True:
            answer = self.call(
                "GET", path, query={**query, **({token_keys[1]: token} if token else {})}
            )
            yield from answer.get(key) or []
            token = answer.get(token_keys[0]) or ""
            if not token:
                return


@contextmanager
def reported(name: str, address: str) -> Iterator[None]:
    """Reports a failed request, of `requests` or of a client library of Google, in one line.

    Args:
        name: Name of the platform.
        address: Its address.

    Raises:
        ServiceError: The platform cannot be reached, rejects the request, or sends no JSON.
    """
    try:
        yield
    except (requests.Timeout, exceptions.RetryError) as error:
        raise ServiceError(
            f"{name}: {address} gave no answer in {TIMEOUT_SECS:.0f} s; try again"
        ) from error
    except (requests.JSONDecodeError, json_format.ParseError) as error:
        raise ServiceError(
            f"{name}: {address} answered, but not in JSON; is it the right address?"
        ) from error
    except (requests.HTTPError, exceptions.GoogleAPICallError) as error:
        if error.response is None:
            raise ServiceError(f"{name}: {_one_line(str(error))}; try again later") from error
        status = error.response.status_code
        advice = _ADVICE.get(status, "try again later")
        raise ServiceError(
            f"{name}: {_reason(error.response)} (HTTP {status}); {advice}"
        ) from error
    except GoogleAuthError as error:
        # Also a refused token: the library then wants another one, which a fixed token has not.
        raise ServiceError(
            f"{name}: no access ({_one_line(str(error))[:200]}); sign in, or renew the token"
        ) from error
    except requests.RequestException as error:
        raise ServiceError(
            f"{name}: {address} can't be reached ({_innermost(error)}); "
            "check the address and the network"
        ) from error


def _reason(answer: requests.Response) -> str:
    """Extracts the reason of a rejection, whose format differs between Google and Kubeflow."""
    try:
        document = answer.json()
    except ValueError:
        return answer.reason or "refused"
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, dict):
        return _one_line(str(error.get("message", "refused")))
    message = document.get("message") if isinstance(document, dict) else None
    return _one_line(str(message or error or answer.reason or "refused"))


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _innermost(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return _one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
