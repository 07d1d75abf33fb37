"""Manages processes of this machine that write units, each with its own interpreter lock.

`local_run.py` calls it. A worker is a new process that imports only NumPy and OpenCV: a fork of a
process in which TensorFlow and gRPC have started threads may hang, and `multiprocessing` would
import the caller's main module and with it all of TFX.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Final, Self

from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.parts import Part
from components.image_example_gen.worker import PROBE, WRITE
from components.image_sources.base import WorkUnit
from trainer.errors import InputError

_MODULE: Final = "components.image_example_gen.worker"
_EXIT_SECS: Final = 5.0


class WorkerStartError(RuntimeError):
    """Reports that worker processes cannot be started on this machine."""


class Workers:
    """Runs worker processes that write units; as a context manager, it ends them all on exit.

    Args:
        processes: Number of processes.
        job: The input and what to store.
        uri: The artifact's folder, on this machine.
        threads: Threads per process that check images.

    Raises:
        WorkerStartError: if they cannot be started.
    """

    def __init__(self, processes: int, job: IngestJob, uri: str, threads: int) -> None:
        self._job = (job, uri, threads)
        self._running: dict[Connection, subprocess.Popen[bytes]] = {}
        try:
            started = [self._start() for _ in range(processes)]
            for connection in started:
                self._expect_ready(connection)
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def write(self, units: Iterable[WorkUnit]) -> Iterator[Part]:
        """Writes all units, assigning the next unit to the first free process.

        Args:
            units: The units to write, consumed as processes become free.

        Yields:
            Parts by number, in the order in which units finish.

        Raises:
            InputError: if a source or the output fails, or a process dies.
        """
        waiting = iter(units)
        busy: dict[Connection, WorkUnit] = {}
        for connection, unit in zip(list(self._running), waiting, strict=False):
            _send(connection, (WRITE, unit))
            busy[connection] = unit
        while busy:
            ready = wait(list(busy))
            for connection in [known for known in busy if known in ready]:
                unit = busy.pop(connection)
                try:
                    result = connection.recv()
                except (EOFError, OSError) as error:
                    raise InputError(self._cause(connection, unit)) from error
                if isinstance(result, Exception):
                    raise result
                yield from result
                following = next(waiting, None)
                if following is not None:
                    _send(connection, (WRITE, following))
                    busy[connection] = following

    def _cause(self, connection: Connection, unit: WorkUnit) -> str:
        """Finds the image that crashed a process by repeating the unit with a trace of names."""
        died = f"ended with {_ending(self._running[connection])}"
        name = ""
        try:
            witness = self._start()
            self._expect_ready(witness)
            _send(witness, (PROBE, unit))
            while (told := witness.recv()) is not None:
                name = told
        except (EOFError, OSError):
            return (
                f"{name or unit.source}: the process that read it {died}, twice: a decoder"
                " crashes over it; remove it from the input"
            )
        except WorkerStartError:
            pass
        return (
            f"{unit.source}: a process that checked its images {died}, and no single image does"
            " that again: give the run more memory or fewer processes"
        )

    def _start(self) -> Connection:
        """Starts one process and returns the socket connection to it."""
        if not sys.executable:
            raise WorkerStartError("this interpreter does not know its own path")
        # The worker must import the same packages as this process.
        paths = [path or os.getcwd() for path in sys.path]
        try:
            ours, theirs = socket.socketpair()
            connection = Connection(ours.detach())
            with theirs:
                self._running[connection] = subprocess.Popen(
                    [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                )
        except OSError as error:
            raise WorkerStartError(str(error)) from error
        _send(connection, self._job)
        return connection

    def _expect_ready(self, connection: Connection) -> None:
        try:
            connection.recv()
        except (EOFError, OSError) as error:
            ending = _ending(self._running[connection])
            raise WorkerStartError(f"a process ended with {ending} as it started") from error

    def _stop(self) -> None:
        """Ends all processes."""
        for connection in self._running:
            connection.close()
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running = {}


def _send(connection: Connection, message: object) -> None:
    """Sends to a process; ignores a broken pipe, which the next receive detects."""
    with suppress(ConnectionError):
        connection.send(message)


def _ending(process: "subprocess.Popen[bytes]") -> str:
    """Describes how a process ended."""
    try:
        code = process.wait(_EXIT_SECS)
    except subprocess.TimeoutExpired:
        return "a closed connection"
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
