"""Engines of bulk jobs as processes of this machine: Prism, Dask, and Beam's worker pools.

Tests and `benchmarks/engines.py` start them; each ends with its context.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from components.bulk_inference.config import EngineConfig
from components.bulk_inference.running.dask_cluster import look_at_workers
from components.bulk_inference.running.engine_checks import find_prism
from components.serving_check.server import free_port
from tests.forked import Forked
from tests.limits import HANG_SECS
from trainer.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def prism_binary() -> str:
    """Returns the path of Prism: the variable PRISM, PATH, or where Beam keeps it.

    Raises:
        InputError: if it is nowhere; the message has the command that builds it.
    """
    return os.environ.get("PRISM") or find_prism(EngineConfig(runner="prism"))


def why_no_prism() -> str:
    """Returns why there is no Prism, with the command that builds it; empty if there is one."""
    try:
        prism_binary()
    except InputError as error:
        return str(error)
    return ""


@contextmanager
def prism() -> Iterator[str]:
    """Starts a Prism; gives the address of its job endpoint."""
    port = free_port()
    command = [prism_binary(), f"--job_port={port}", "--serve_http=false", "--log_kind=json"]
    with _process(command) as server:
        _wait_for(port, server)
        yield f"localhost:{port}"


@contextmanager
def worker_pool(folder: Path) -> Iterator[str]:
    """Starts an external worker pool in a folder, as it stands beside a task manager.

    Yields:
        Its address. It starts a process for each worker that a runner asks for.
    """
    port = free_port()
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"]
    with _process([*command, f"--service_port={port}"], folder) as pool:
        _wait_for(port, pool)
        yield f"localhost:{port}"


@dataclass
class DaskCluster:
    """A scheduler and its workers.

    Attributes:
        address: The scheduler's address.
        workers: One process each, with a core of its own while there are enough.
    """

    address: str
    workers: list[subprocess.Popen | Forked] = field(default_factory=list)


@contextmanager
def dask_cluster(
    folder: Path, workers: int = 2, threads: int = 2, *, forked: bool = False
) -> Iterator[DaskCluster]:
    """Starts a scheduler and worker processes in a folder.

    Args:
        folder: Their current folder, and where they log.
        workers: Number of worker processes; 0 for a cluster that cannot do anything.
        threads: Units that a worker has in progress.
        forked: Whether the workers start with the imports that tests share.
    """
    port = free_port()
    cluster = DaskCluster(f"tcp://127.0.0.1:{port}")
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    with ExitStack() as stack:
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *local]
        scheduler = stack.enter_context(_process([*command, "--port", str(port)], folder))
        _wait_for(port, scheduler)
        program = "distributed.cli.dask_worker"
        options = [cluster.address, *local, "--no-nanny", "--nthreads", str(threads)]
        cores = sorted(os.sched_getaffinity(0))
        for worker in range(workers):
            core = cores[worker % len(cores)]
            started: subprocess.Popen | Forked
            if forked:
                started = stack.enter_context(_fork(program, *options, folder=folder))
            else:
                command = [sys.executable, "-m", program, *options]
                started = stack.enter_context(_process(command, folder))
            os.sched_setaffinity(started.pid, [core])
            cluster.workers.append(started)
        deadline = time.monotonic() + HANG_SECS
        while workers and _alive(cluster) < workers:
            assert time.monotonic() < deadline
            assert all(worker.poll() is None for worker in cluster.workers)
            time.sleep(0.1)
        yield cluster


def _alive(cluster: DaskCluster) -> int:
    try:
        return len(look_at_workers(cluster.address))
    except InputError:
        return 0


@contextmanager
def _process(command: Sequence[str], folder: Path | None = None) -> Iterator[subprocess.Popen]:
    """Runs a server in a session of its own, so that all that it starts ends with it."""
    # A worker pool starts its workers as `python`, whichever that is on its PATH.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    server = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with _ended(server):
        yield server


@contextmanager
def _fork(module: str, *arguments: str, folder: Path) -> Iterator[Forked]:
    """Runs a server in a fork and in a session of its own."""
    output = folder / "printed.txt"
    server = Forked(module, *arguments, output=output, cwd=folder, new_session=True)
    with _ended(server):
        yield server


@contextmanager
def _ended(server: subprocess.Popen | Forked) -> Iterator[None]:
    """Kills a server and all that it has started."""
    try:
        yield
    finally:
        # The test may have killed it.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(port: int, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + HANG_SECS
    while not _is_open(port):
        assert server.poll() is None, f"{server.args!r} did not start"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0
