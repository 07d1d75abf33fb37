"""Starts the model servers that the contract tests run against.

The stand-in runs everywhere. The real server runs where it is installed, and in a container where
SERVING_IMAGE names an image, as `make serving-check` does.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from components.serving_check.server import free_port
from serving.client import PredictClient
from serving.predictions import ServingError
from tests.limits import HANG_SECS
from tests.serving import loopback_server

STAND_IN = Path(loopback_server.__file__)
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "serving"
IMAGE = "SERVING_IMAGE"
"""Environment variable with the image of TF Serving, such as `tensorflow/serving:2.16.1`."""

BATCHING = (
    "--enable_batching",
    "--batching_parameters_file=/config/batching.config",
    "--monitoring_config_file=/config/monitoring.config",
)
"""Flags of the container's server, as docs/serving.md gives them."""
FOLLOWING = (
    "--allow_version_labels_for_unavailable_models=true",
    "--model_config_file_poll_wait_seconds=1",
)
"""Flags of a real server that labels versions by a model config file."""

Addresses = dict[str, str]


@contextmanager
def loopback(
    folder: Path, *, config: Path | None = None, fail: int = 0, delay: float = 0.0
) -> Iterator[Addresses]:
    """Runs the stand-in server in this process, which has imported TensorFlow.

    Args:
        folder: Folder of the versions.
        config: Model config file to follow in place of it.
        fail: Predicts that it refuses at first.
        delay: Seconds that it waits before it answers the others.
    """
    manager = loopback_server.Manager(None if config else folder, config, fail=fail, delay=delay)
    with loopback_server.serve(manager) as (grpc, rest):
        yield addresses(grpc, rest)


@contextmanager
def model_server(folder: Path, *, config: Path | None = None) -> Iterator[Addresses]:
    """Runs the real server, where it is installed."""
    program = shutil.which("tensorflow_model_server")
    if program is None:
        pytest.skip("tensorflow_model_server is not on this machine")
    source = ["--model_name=vaeline", f"--model_base_path={folder}"]
    if config is not None:
        source = [f"--model_config_file={config}", *FOLLOWING]
    with _running([program, "--port={grpc}", "--rest_api_port={rest}", *source]) as found:
        yield found


@contextmanager
def container(folder: Path, *, config: Path | None = None) -> Iterator[Addresses]:
    """Runs the real server in a container, with batching and the files of configs/serving."""
    image = os.environ.get(IMAGE)
    if not image:
        pytest.skip(f"{IMAGE} names no image of TF Serving; `make serving-check` does")
    # The model config file of a test has paths of this machine.
    mounts = [f"{folder}:{folder if config else '/models/vaeline'}:ro", f"{CONFIGS}:/config:ro"]
    file = "/config/models.config"
    if config is not None:
        mounts.append(f"{config.parent}:{config.parent}:ro")
        file = str(config)
    # The image's entry is a shell script, which as process 1 would ignore a signal to stop.
    command = ["docker", "run", "--rm", "--init"]
    command += ["-p", "127.0.0.1:{grpc}:8500", "-p", "127.0.0.1:{rest}:8501"]
    for mount in mounts:
        command += ["-v", mount]
    command += [image, f"--model_config_file={file}", *BATCHING, *(FOLLOWING if config else ())]
    with _running(command) as found:
        yield found


@contextmanager
def _running(command: list[str]) -> Iterator[Addresses]:
    """Runs a server until the block ends, and waits for its first version.

    Args:
        command: The command, in which `{grpc}` and `{rest}` stand for its ports.
    """
    grpc, rest = free_port(), free_port()
    found = addresses(grpc, rest)
    with tempfile.TemporaryFile("w+") as log, PredictClient(found["rest"], attempts=1) as client:
        process = subprocess.Popen(
            [part.format(grpc=grpc, rest=rest) for part in command],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )

        def is_ready() -> bool:
            if process.poll() is not None:
                log.seek(0)
                last = " ".join(log.read().split("\n")[-4:])
                pytest.fail(f"{command[0]} ended with {process.returncode}: {last}", pytrace=False)
            return bool(client.served_versions())

        try:
            until(is_ready)
            yield found
        finally:
            # Docker's client passes the signal on to the server.
            process.terminate()
            process.wait(timeout=HANG_SECS)


def until_served(client: PredictClient, numbers: list[int]) -> None:
    """Waits until a server serves these versions."""
    until(lambda: client.served_versions() == numbers)


def until(condition: Callable[[], bool]) -> None:
    """Waits for what a server does by and by; errors of the server count as not yet."""
    deadline = time.monotonic() + HANG_SECS
    while time.monotonic() < deadline:
        with suppress(ServingError):
            if condition():
                return
        time.sleep(0.2)
    pytest.fail(f"it did not happen within {HANG_SECS} s")


def addresses(grpc: int, rest: int) -> Addresses:
    """Returns the addresses of a server on this machine, by protocol."""
    return {"grpc": f"grpc://127.0.0.1:{grpc}", "rest": f"http://127.0.0.1:{rest}"}
