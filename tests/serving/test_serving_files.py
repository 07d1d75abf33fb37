"""The files for TF Serving and Kubernetes in configs/serving are read by what they are for."""

import base64
import json
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import names

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "serving"


def test_the_model_config_serves_the_highest_version() -> None:
    text = (FOLDER / "models.config").read_text(encoding="utf-8")
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (config,) = parsed.model_config_list.config
    assert config.name == "vaeline"
    assert config.model_version_policy.latest.num_versions == 1


def test_the_manifest_holds_together() -> None:
    text = (FOLDER / "kubernetes.yaml").read_text(encoding="utf-8")
    deployment, service = yaml.safe_load_all(text)
    pod: dict[str, Any] = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    arguments = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    assert (arguments["port"], arguments["rest_api_port"]) == (
        str(ports["grpc"]),
        str(ports["rest"]),
    )
    for port in service["spec"]["ports"]:
        assert port["targetPort"] in ports
    name = arguments["model_name"]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == f"/v1/models/{name}/metadata"
        assert container[probe]["httpGet"]["port"] in ports
    (mount,) = container["volumeMounts"]
    for argument in ("batching_parameters_file", "monitoring_config_file"):
        folder, _, file = arguments[argument].rpartition("/")
        assert folder == mount["mountPath"]
        assert (FOLDER / file).is_file()
    metrics = (FOLDER / "monitoring.config").read_text(encoding="utf-8")
    assert f'"{pod["metadata"]["annotations"]["prometheus.io/path"]}"' in metrics


def test_the_documented_request_has_room_for_a_photo(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (block,) = (found for found in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
                if "base64" in found)  # fmt: skip
    photo = random.Random(0).randbytes(500_000)
    (tmp_path / "photo.png").write_bytes(photo)
    command = f"set -e\ncurl() {{ cat; }}\n{block}"
    body = subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    (row,) = json.loads(body.stdout)["instances"]
    assert base64.b64decode(row[names.IMAGE_BYTES]["b64"]) == photo


def test_the_batching_parameters_are_those_of_the_page() -> None:
    text = (FOLDER / "batching.config").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+) \{ value: (\d+) \}$", text, re.MULTILINE))
    assert set(values) == {
        "max_batch_size",
        "batch_timeout_micros",
        "num_batch_threads",
        "max_enqueued_batches",
    }
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    for name, value in values.items():
        assert f"`{name}` | {int(value):,} " in page
