"""Processes of this machine that write units: each has an interpreter lock of its own.

Called by `ingest.py` where Beam would run in one process. A worker is started afresh and imports
NumPy and OpenCV alone: a fork of a process in which TensorFlow and gRPC have started threads may
hang, and `multiprocessing` would import the caller's main module, all of TFX with it.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Final, Self

from components.image_example_gen.parts import Part
from components.image_sources.base import WorkUnit
from components.image_sources.config import InputConfig
from components.image_sources.errors import InputError

_MODULE: Final = "components.image_example_gen.worker"
_MOST: Final = 16
"""More would wait for the disk, and each takes 100 MiB."""
_WORTH_MEMBERS: Final = 16_384
"""Fewer images are done before workers have started."""
_EXIT_SECS: Final = 5.0


def choose(units: Sequence[WorkUnit], cores: int) -> int:
    """Says how many processes are worth their start; 0 for none."""
    known = [unit.members for unit in units]
    # Tars and TFRecord files do not tell how much is in them.
    if min(known, default=0) >= 0 and sum(known) < _WORTH_MEMBERS:
        return 0
    processes = min(len(units), cores, _MOST)
    return processes if processes > 1 else 0


class WorkerStartError(RuntimeError):
    """Processes cannot be started here."""


class Workers:
    """A few processes that write units; a context manager, which leaves none behind.

    Args:
        processes: How many.
        config: The input section.
        uri: The artifact's folder, on this machine.
        threads: Threads that check images, of each process.

    Raises:
        WorkerStartError: if they cannot be started.
    """

    def __init__(self, processes: int, config: InputConfig, uri: str, threads: int) -> None:
        self._running: dict[Connection, subprocess.Popen[bytes]] = {}
        try:
            for _ in range(processes):
                connection, process = _start()
                self._running[connection] = process
                connection.send((config, uri, threads))
            for connection, process in self._running.items():
                if not _says_ready(connection):
                    raise WorkerStartError(f"worker process ended with {_ending(process)}")
        except OSError as error:
            self._stop()
            raise WorkerStartError(str(error)) from error
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def write(self, units: Sequence[WorkUnit]) -> Iterator[tuple[int, Part]]:
        """Writes all units; a free process takes the next one.

        Args:
            units: What to write.

        Yields:
            Parts by number, in the order in which units are done.

        Raises:
            InputError: if a source or the output fails, or a process dies.
        """
        waiting = iter(units)
        busy: dict[Connection, WorkUnit] = {}
        for connection, unit in zip(self._running, waiting, strict=False):
            connection.send(unit)
            busy[connection] = unit
        while busy:
            ready = wait(list(busy))
            for connection in [known for known in busy if known in ready]:
                unit = busy.pop(connection)
                try:
                    result = connection.recv()
                except (EOFError, OSError) as error:
                    raise self._died(connection, unit) from error
                if isinstance(result, Exception):
                    raise result
                yield from ((part.number, part) for part in result)
                following = next(waiting, None)
                if following is not None:
                    connection.send(following)
                    busy[connection] = following

    def _died(self, connection: Connection, unit: WorkUnit) -> InputError:
        """Words the end of a process that left its unit behind."""
        ending = _ending(self._running[connection])
        return InputError(
            f"{unit.source}: the process that checked its work unit {unit.index} ended with"
            f" {ending}: out of memory, or an image that crashes its decoder; give it memory, or"
            " halve the archive until the image is found, and remove it"
        )

    def _stop(self) -> None:
        """Ends all processes."""
        for connection in self._running:
            connection.close()
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running = {}


def _start() -> tuple[Connection, "subprocess.Popen[bytes]"]:
    """Starts one process, joined to this one by a socket."""
    if not sys.executable:
        raise WorkerStartError("this interpreter does not know its own path")
    ours, theirs = socket.socketpair()
    with theirs:
        # The same packages as here, wherever they were found.
        paths = [path or os.getcwd() for path in sys.path]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    return Connection(ours.detach()), process


def _says_ready(connection: Connection) -> bool:
    try:
        return connection.recv() is None
    except (EOFError, OSError):
        return False


def _ending(process: "subprocess.Popen[bytes]") -> str:
    """Names how a process ended."""
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
