"""A headless Chromium, driven over its debugging pipe: what a page shows, asks for, complains of.

No library is needed: messages are JSON with a zero byte after each, on descriptors 3 and 4.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.limits import HANG_SECS

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


@dataclass
class Seen:
    """What a page did at one width."""

    scroll_width: int
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


class Browser:
    """One running Chromium."""

    def __init__(self, to: int, back: int) -> None:
        self._to = to
        self._back = os.fdopen(back, "rb")
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        content = bytearray()
        while (byte := self._back.read(1)) not in (b"\0", b""):
            content += byte
        if not content:
            raise RuntimeError("Chromium is gone")
        return json.loads(content)

    def _wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._read())

    def open(
        self,
        page: Path,
        *,
        width: int,
        picture: Path,
        dark: bool = False,
        ask: tuple[str, ...] = (),
    ) -> Seen:
        """Opens a page at a width, takes a picture of all of it, and evaluates expressions."""
        self._events.clear()
        mode = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **mode)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        self._wait_for("Page.loadEventFired")
        values = [self.evaluate(expression) for expression in ask]
        seen = Seen(self.evaluate("document.documentElement.scrollWidth"), values=values)
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(base64.b64decode(shot["data"]))
        for event in self._events:
            params = event.get("params", {})
            if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                seen.problems.append(json.dumps(params))
            if event["method"] == "Runtime.consoleAPICalled":
                seen.problems.append(json.dumps(params))
            if event["method"] == "Network.requestWillBeSent":
                seen.requests.append(params["request"]["url"])
        seen.requests = [url for url in seen.requests if not url.startswith("data:")]
        return seen

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)[
            "result"
        ].get("value")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts Chromium and ends it."""
    to_read, to_write = os.pipe()
    back_read, back_write = os.pipe()

    def place() -> None:
        # Copies first: one of the four may be 3 or 4 itself.
        commands, answers = os.dup(to_read), os.dup(back_write)
        os.dup2(commands, 3)
        os.dup2(answers, 4)

    # Processes that Chromium started may still write to the profile while it is removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu",
                "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            ],
            close_fds=False,
            preexec_fn=place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(back_write)
        try:
            yield Browser(to_write, back_read)
        finally:
            process.terminate()
            process.wait(timeout=HANG_SECS)
            os.close(to_write)
