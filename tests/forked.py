"""Starts modules in forks of a process that has imported TensorFlow and TFX, as `python -m` would.

A fork is a process of its own, with its own kernels, threads and signals. It only shares the
imports, which take 14 s of a fresh process. All processes of a run of the suite share one
`tests/fork_server.py`, which the first request starts.
"""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.limits import HANG_SECS

ROOT: Final = Path(__file__).resolve().parents[1]
LONGEST_REQUEST: Final = 1 << 17
"""Bytes of one request at most."""

_RUN: Final = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
_ADDRESS: Final = f"\0vaeline-tests-{os.getuid()}-{_RUN}"
"""Where the process that forks listens, the same for all processes of one run of the suite."""


class _Requests:
    """The connection of this process to the one that forks."""

    _connection: socket.socket | None = None

    @classmethod
    def send(cls, message: bytes, places: Sequence[int]) -> None:
        """Sends one request with its files; the first one of a run of the suite starts the server.

        An abstract address is bound by one process only, and is gone with the last that has it.
        """
        while cls._connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.connect(_ADDRESS)
                cls._connection = connection
            except ConnectionRefusedError:
                connection.close()
                _start_server()
        socket.send_fds(cls._connection, [message], places)


def _start_server() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        try:
            listening.bind(_ADDRESS)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            # Another process of pytest is about to listen there.
            time.sleep(0.01)
            return
        listening.listen()
        subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(listening.fileno())],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )


class Forked:
    """A module that runs.

    Args:
        module: As for `python -m`.
        arguments: Its arguments.
        output: File to which it prints.
        errors: File for its standard error; None for the same.
        environment: Variables to set; None removes one.
        cwd: Its folder.
        new_session: Whether it leads a process group of its own.

    Attributes:
        pid: The id of the process.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        output: Path,
        errors: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
        cwd: Path = ROOT,
        new_session: bool = False,
    ) -> None:
        self._output = output
        self._code: int | None = None
        given = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        request = json.dumps(
            {
                "module": module,
                "arguments": arguments,
                "environment": {name: value for name, value in given.items() if value is not None},
                "cwd": str(cwd),
                "new_session": new_session,
            }
        ).encode()
        assert len(request) < LONGEST_REQUEST
        self._answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with output.open("ab") as out, (errors or output).open("ab") as err, theirs:
            places = [out.fileno(), err.fileno(), theirs.fileno()]
            _Requests.send(request, places)
        self._answers.settimeout(HANG_SECS)
        self.pid = int(self._answers.recv(32))

    def lines(self) -> Iterator[str]:
        """Yields what it prints, line by line, until it ends."""
        with self._output.open(encoding="utf-8") as file:
            rest = ""
            while True:
                is_over = self.poll() is not None
                rest += file.read()
                *whole, rest = rest.split("\n")
                yield from whole
                if is_over:
                    return
                time.sleep(0.02)

    def wait_for(self, text: str) -> None:
        """Waits until a line with this text is printed, or until the process ends."""
        any(text in line for line in self.lines())

    def send(self, signal_number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, signal_number)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with contextlib.suppress(BlockingIOError):
            return self._wait(0)
        return None

    def wait(self) -> int:
        """Waits for its end; the exit code, negative for a signal."""
        return self._wait(HANG_SECS)

    def _wait(self, seconds: float) -> int:
        if self._code is None:
            self._answers.settimeout(seconds)
            self._code = int(self._answers.recv(32))
            self._answers.close()
        return self._code

    @property
    def text(self) -> str:
        """What it printed so far."""
        return self._output.read_text(encoding="utf-8")


def vaeline(
    *arguments: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command `vaeline` to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        process = Forked(
            "pipeline.cli", *arguments, output=output, errors=errors, environment=environment,
            cwd=cwd,
        )  # fmt: skip
        code = process.wait()
        texts = [path.read_text(encoding="utf-8") for path in (output, errors)]
        return subprocess.CompletedProcess(("vaeline", *arguments), code, *texts)
