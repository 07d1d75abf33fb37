"""`vaeline compile`, `submit` and `schedule` as people start them, with secrets planted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.forked import vaeline
from tests.pipeline.orchestration.loopback import loopback

PROJECT = Path(__file__).resolve().parents[3]
PLANTED = {"KFP_TOKEN": "planted-kfp-token", "STORE_TOKEN": "planted-store-token"}


def write_config(folder: Path, endpoint: str, **sections: object) -> Path:
    path = folder / "flowers.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "flowers",
                "input": {"paths": "gs://pictures/{YYYY}-{MM}-{DD}.zip"},
                "push": {"directory": "gs://pictures/pushed"},
                "cluster": {
                    "platform": "kubeflow",
                    "image": "registry.example/vaeline:latest",
                    "pipeline_root": "gs://pictures/runs",
                    "kubeflow": {"endpoint": endpoint},
                    "secrets": [{"name": "store", "key": "token", "variable": "STORE_TOKEN"}],
                },
                **sections,
            }
        )
    )
    return path


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Starts a command in this process, which has imported TFX; gives its code and output."""
    from pipeline import console
    from pipeline.cli import main

    # It takes the process's standard error away for good.
    monkeypatch.setattr(console, "quiet_teardown", lambda: None)
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_schedule_is_made_once_and_holds_no_secret(tmp_path: Path, start: Any) -> None:
    with loopback() as server:
        config = str(write_config(tmp_path, server.address))
        code, out, err = start("schedule", "create", "--config", config, "--json")
        assert code == 0, out + err
        assert json.loads(out)["state"] == "active"
        assert "is a tag, which may move" in err
        listed, created = server.requests
        assert (listed.method, created.method) == ("GET", "POST")
        assert created.token == f"Bearer {PLANTED['KFP_TOKEN']}"
        sent = json.dumps(created.body)
        assert "STORE_TOKEN" in sent
        assert not [value for value in PLANTED.values() if value in sent]

        code, out, _ = start("schedule", "create", "--config", config)
        assert code == 1
        assert "flowers has a schedule already: rr-1" in out
        assert start("schedule", "pause", "rr-1", "--config", config)[0] == 0
        _, out, _ = start("schedule", "list", "--config", config, "--json")
        assert json.loads(out)["schedules"][0]["state"] == "paused"
        code, out, _ = start("submit", "--config", config, "--force", "--json")
        assert json.loads(out) == {"run": "run-1"}
        assert server.requests[-1].body["runtime_config"]["parameters"] == {"force": 1}


def test_a_specification_is_written_without_secrets(tmp_path: Path, start: Any) -> None:
    config = write_config(tmp_path, "http://localhost")
    output = tmp_path / "compiled" / "flowers.yaml"
    code, out, _ = start("compile", "--config", str(config), "--output", str(output))
    assert code == 0, out
    spec, platforms = yaml.safe_load_all(output.read_text())
    assert spec["pipelineInfo"]["name"] == "flowers"
    assert "kubernetes" in platforms["platforms"]
    assert not [value for value in PLANTED.values() if value in output.read_text()]


def test_an_unreachable_path_is_told_before_tfx_is_imported(tmp_path: Path) -> None:
    config = write_config(tmp_path, "http://localhost", push={"directory": "pushed"})
    script = (
        "import sys; from pipeline.cli import main\n"
        f"try: main(['compile', '--config', {str(config)!r}, '--output', 'x.yaml'])\n"
        "finally: print('tfx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    error, has_tfx = done.stdout.splitlines()
    assert error.startswith("error: push.directory: pushed is relative; give an address")
    assert (done.returncode, has_tfx) == (1, "False")


def test_a_planted_secret_stops_before_anything_is_sent(tmp_path: Path) -> None:
    with loopback() as server:
        directory = f"gs://pictures/pushed?{PLANTED['STORE_TOKEN']}"
        config = write_config(tmp_path, server.address, push={"directory": directory})
        done = vaeline("submit", "--config", str(config), environment=PLANTED)
        assert server.requests == []
    assert done.returncode == 1
    assert "error: the configuration holds the value of $STORE_TOKEN" in done.stdout
    assert PLANTED["STORE_TOKEN"] not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_refusing_platform_gives_one_line_and_a_code(tmp_path: Path) -> None:
    with loopback() as server:
        server.refuse = (403, {"message": "flowers may not"})
        config = write_config(tmp_path, server.address)
        done = vaeline("schedule", "list", "--config", str(config), "--json", environment=PLANTED)
    assert done.returncode == 1
    assert "FutureWarning" not in done.stderr
    assert json.loads(done.stdout) == {
        "error": "Kubeflow: flowers may not (HTTP 403); ask for the rights of this account"
    }


def test_the_local_schedule_is_printed(tmp_path: Path) -> None:
    config = write_config(tmp_path, "http://localhost", schedule={"time_zone": "Europe/Berlin"})
    done = vaeline(
        "schedule", "local", "--config", str(config), "--root", str(tmp_path), environment=PLANTED
    )
    assert done.returncode == 0
    assert "CRON_TZ=Europe/Berlin" in done.stdout
    assert f"retrain --config {config} --root {tmp_path}" in done.stdout
