"""A server on this machine that speaks what is used of Kubeflow's and Vertex's REST interfaces."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    token: str
    body: Any


@dataclass
class Loopback:
    """The server's memory.

    Attributes:
        address: where it listens.
        requests: what came in.
        refuse: status and body of every answer, in place of the right one.
    """

    address: str = ""
    requests: list[Request] = field(default_factory=list)
    refuse: tuple[int, Any] | None = None
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, request: Request) -> tuple[int, Any]:
        """Answers as the platforms do."""
        self.requests.append(request)
        if self.refuse is not None:
            return self.refuse
        is_kubeflow = request.path.startswith("/apis/v2beta1/")
        return self._kubeflow(request) if is_kubeflow else self._vertex(request)

    def _kubeflow(self, request: Request) -> tuple[int, Any]:
        kind, _, rest = request.path.removeprefix("/apis/v2beta1/").partition("/")
        if kind == "runs":
            return 200, {"run_id": "run-1", **request.body}
        name, _, verb = rest.partition(":")
        if request.method == "POST" and not rest:
            name = f"rr-{len(self.schedules) + 1}"
            self.schedules[name] = {
                **request.body, "recurring_run_id": name, "status": "ENABLED"
            }  # fmt: skip
            return 200, self.schedules[name]
        if request.method == "GET":
            return 200, self._page(request.query.get("page_token", ""), "recurringRuns",
                                   "next_page_token")  # fmt: skip
        if name not in self.schedules:
            return 404, {"error": f"{name} not found", "message": f"{name} not found", "code": 5}
        if request.method == "DELETE":
            del self.schedules[name]
        else:
            self.schedules[name]["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
        return 200, {}

    def _vertex(self, request: Request) -> tuple[int, Any]:
        path = request.path.removeprefix("/v1/")
        kind = path.rpartition("/")[2]
        if kind == "pipelineJobs":
            return 200, {"name": f"{path}/{request.query['pipelineJobId']}", **request.body}
        if request.method == "POST" and kind == "schedules":
            name = f"{path}/{len(self.schedules) + 1}"
            self.schedules[name] = {
                **request.body, "name": name, "state": "ACTIVE",
                "nextRunTime": "2026-12-01T02:00:00Z",
            }  # fmt: skip
            return 200, self.schedules[name]
        if request.method == "GET":
            return 200, self._page(request.query.get("pageToken", ""), "schedules",
                                   "nextPageToken")  # fmt: skip
        name, _, verb = path.partition(":")
        if name not in self.schedules:
            return 404, {"error": {"code": 404, "message": f"{name} is not found."}}
        if request.method == "DELETE":
            del self.schedules[name]
        else:
            self.schedules[name]["state"] = {"pause": "PAUSED", "resume": "ACTIVE"}[verb]
        return 200, {}

    def _page(self, token: str, key: str, next_key: str) -> dict[str, Any]:
        """Gives one schedule per page."""
        items = list(self.schedules.values())
        at = int(token or 0)
        return {
            key: items[at : at + 1],
            **({next_key: str(at + 1)} if at + 1 < len(items) else {}),
        }


@contextmanager
def loopback() -> Iterator[Loopback]:
    """Serves until the body ends."""
    memory = Loopback()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length)
            url = urlsplit(self.path)
            status, answer = memory.answer(
                Request(
                    method=self.command,
                    path=url.path,
                    query={key: values[0] for key, values in parse_qs(url.query).items()},
                    token=self.headers.get("Authorization", ""),
                    body=json.loads(content) if content else None,
                )
            )
            text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    memory.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
