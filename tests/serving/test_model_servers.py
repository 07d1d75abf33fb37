"""Servers of other makers are started and asked as documented; stand-ins take their places."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from components.serving_check.config import ServingCheckConfig
from components.serving_check.server import check_server
from serving.client import PredictClient
from tests.limits import HANG_SECS
from tests.serving import model_servers
from tests.serving.conftest import Exported

ROOT = Path(__file__).resolve().parents[2]


def install(folder: Path, name: str, *command: str) -> None:
    """Writes an executable that runs a command with its own arguments."""
    script = folder / name
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return folder


@pytest.fixture
def docker(programs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the command line that `docker` was called with."""
    fake = Path(model_servers.__file__).with_name("fake_docker.py")
    install(programs, "docker", sys.executable, str(fake))
    monkeypatch.setenv("FAKE_DOCKER_LOG", str(programs / "docker.json"))
    return programs / "docker.json"


def test_serving_check_asks_an_installed_server_over_both_protocols(
    exported: Exported, programs: Path
) -> None:
    stand_in = [sys.executable, str(model_servers.STAND_IN)]
    install(programs, "tensorflow_model_server", *stand_in)
    config = ServingCheckConfig(batch_sizes=(3,), timeout_secs=HANG_SECS)
    stages = check_server(str(exported.folder), config)
    assert [stage.fault for stage in stages] == ["", ""]
    assert [re.sub(r"\d+$", "", stage.name) for stage in stages] == [
        "server at grpc://127.0.0.1:",
        "server at http://127.0.0.1:",
    ]


def test_serving_check_takes_a_server_by_host_and_port(exported: Exported) -> None:
    with model_servers.loopback(exported.folder.parent) as addresses:
        for server in (addresses["grpc"].removeprefix("grpc://"), addresses["rest"]):
            config = ServingCheckConfig(server=server, batch_sizes=(3,), timeout_secs=HANG_SECS)
            (stage,) = check_server(str(exported.folder), config)
            assert stage.fault == ""


def test_a_container_is_started_as_documented(
    exported: Exported, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(model_servers.IMAGE, "tensorflow/serving:2.16.1")
    with model_servers.container(exported.folder.parent) as addresses:
        for target in addresses.values():
            with PredictClient(target, timeout_secs=HANG_SECS) as client:
                assert client.served_versions() == [1]
                assert len(client.classify(exported.contents[:2])) == 2
    called = json.loads(docker.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    documented = page[page.index("docker run") : page.index("```\n", page.index("docker run"))]
    of_server = documented.replace("\\\n", " ").split()
    of_server = of_server[of_server.index("tensorflow/serving:2.16.1") :]
    assert called[called.index("tensorflow/serving:2.16.1") :] == of_server


def test_a_container_that_does_not_start_is_one_line(
    exported: Exported, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(model_servers.IMAGE, "tensorflow/serving:missing")
    with (
        pytest.raises(pytest.fail.Exception, match="docker ended with 125: docker: manifest for"),
        model_servers.container(exported.folder.parent),
    ):
        pass
