"""Sends the golden images to a real TF Serving if one is installed or configured."""

import contextlib
import importlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.bulk_inference.model_card import read_card
from components.serving_check.config import ServingCheckConfig
from components.serving_check.report import Stage, Tolerance, compare, tolerance_of
from serving import names
from serving.golden import GoldenSet, read_golden

_BINARY = "tensorflow_model_server"
_POLL_SECS = 0.2


def check_server(model: str, config: ServingCheckConfig) -> list[Stage]:
    """Compares a server's answers with those in memory, over each of its protocols.

    Args:
        model: Folder of the SavedModel.
        config: The section; with neither an address nor a server on the PATH nothing is checked.

    Returns:
        One stage per protocol.
    """
    golden = read_golden(f"{model}/{names.EXTRA_ASSETS}/{names.GOLDEN}")
    tolerance = tolerance_of(read_card(model), config)
    if config.server:
        return [_ask(config.server, config, golden, tolerance)]
    binary = shutil.which(_BINARY)
    if binary is None:
        return []
    try:
        with _started(binary, model, config) as targets:
            return [_ask(target, config, golden, tolerance) for target in targets]
    except OSError as error:
        return [Stage(_BINARY, str(error))]


def _ask(target: str, config: ServingCheckConfig, golden: GoldenSet, tolerance: Tolerance) -> Stage:
    # The client needs requests and grpc, which a check without a server does not require.
    client_module = importlib.import_module("serving.client")

    if "://" not in target:
        target = f"grpc://{target}"
    stage = Stage(f"server at {target}")
    client = client_module.PredictClient(
        target, model=config.server_model, timeout_secs=config.timeout_secs
    )
    for size in config.batch_sizes:
        rows = np.arange(size) % len(golden)
        files = np.empty(size, object)
        files[:] = [golden.files[row] for row in rows]
        try:
            found = client.predict(names.ANNOTATE, {names.IMAGE_BYTES: files})
        except (OSError, RuntimeError, ValueError) as error:
            stage.fault = f"no answer to {size} images: {str(error).splitlines()[0][:300]}"
            break
        expected = {name: answer[rows] for name, answer in golden.answers.items()}
        difference, fault = compare(found, expected, tolerance)
        stage.difference = max(stage.difference, difference)
        stage.fault = stage.fault or fault
    return stage


@contextlib.contextmanager
def _started(binary: str, model: str, config: ServingCheckConfig) -> Iterator[tuple[str, str]]:
    """Runs a server for the model and yields its gRPC and REST addresses."""
    grpc, rest = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        # TF Serving requires a folder of numbered versions.
        (Path(folder) / "1").symlink_to(Path(model).resolve(), target_is_directory=True)
        command = [
            binary,
            f"--port={grpc}",
            f"--rest_api_port={rest}",
            f"--model_name={config.server_model}",
            f"--model_base_path={folder}",
        ]
        server = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # As for the probe.
        )
        try:
            _wait(server, rest, time.monotonic() + config.timeout_secs)
            yield f"grpc://127.0.0.1:{grpc}", f"http://127.0.0.1:{rest}"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait(server: "subprocess.Popen[bytes]", port: int, deadline: float) -> None:
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise OSError(f"the server ended with {server.returncode} before it answered")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(_POLL_SECS)
    raise OSError("the server did not answer in serving_check.timeout_secs")


def free_port() -> int:
    """Returns a port of this machine on which nothing listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
