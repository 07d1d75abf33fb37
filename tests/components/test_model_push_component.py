"""The Pusher as TFX runs it: blessings, the artifact's properties, the record."""

import json
from pathlib import Path
from typing import Any

import pytest
from tfx.types import channel, standard_artifacts

from components.model_push.component import Pusher
from components.model_push.executor import Executor
from components.model_push.versions import RECORD_FILE
from tests.components.test_model_push import FILES, model


def artifact(kind: Any, folder: Path) -> Any:
    made = kind()
    folder.mkdir(parents=True, exist_ok=True)
    made.uri = str(folder)
    return made


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    """A trained model that everyone blessed, and its images."""
    trained = artifact(standard_artifacts.Model, tmp_path / "trained")
    model(tmp_path / "trained" / "Format-Serving")
    blessing = artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing")
    blessing.set_int_custom_property("blessed", 1)
    infra = artifact(standard_artifacts.InfraBlessing, tmp_path / "infra")
    infra.set_int_custom_property("blessed", 1)
    infra.set_string_custom_property("blessing_status", "INFRA_BLESSED")
    examples = artifact(standard_artifacts.Examples, tmp_path / "examples")
    examples.set_string_custom_property("input_fingerprint", "f00d")
    return {
        "model": [trained],
        "model_blessing": [blessing],
        "infra_blessing": [infra],
        "examples": [examples],
    }


def push(inputs: dict[str, Any], tmp_path: Path) -> Any:
    pushed = artifact(standard_artifacts.PushedModel, tmp_path / "push")
    properties = {"directory": str(tmp_path / "versions"), "user": "ada"}
    Executor().Do(inputs, {"pushed_model": [pushed]}, properties)
    return pushed


def test_a_blessed_model_becomes_a_version(inputs: dict[str, Any], tmp_path: Path) -> None:
    pushed = push(inputs, tmp_path)
    assert pushed.get_int_custom_property("pushed") == 1
    version = Path(pushed.get_string_custom_property("pushed_destination"))
    assert version == tmp_path / "versions" / pushed.get_string_custom_property("pushed_version")
    record = json.loads((version / RECORD_FILE).read_text())
    assert (record["user"], record["fingerprint"]) == ("ada", "f00d")
    assert record["sources"] == ["digits.zip"]
    for name, content in FILES.items():
        assert (version / name).read_bytes() == content
        # TFX keeps a copy as the artifact.
        assert (tmp_path / "push" / name).read_bytes() == content


@pytest.mark.parametrize("denied", ["model_blessing", "infra_blessing"])
def test_a_denied_blessing_pushes_nothing(
    inputs: dict[str, Any], tmp_path: Path, denied: str
) -> None:
    inputs[denied][0].set_int_custom_property("blessed", 0)
    inputs[denied][0].set_string_custom_property("blessing_status", "INFRA_NOT_BLESSED")
    pushed = push(inputs, tmp_path)
    assert pushed.get_int_custom_property("pushed") == 0
    assert not (tmp_path / "versions").exists()


def test_the_component_takes_what_tfx_takes(tmp_path: Path) -> None:
    made = Pusher(
        "gs://bucket/models",
        model=channel.Channel(type=standard_artifacts.Model),
        model_blessing=channel.Channel(type=standard_artifacts.ModelBlessing),
        infra_blessing=channel.Channel(type=standard_artifacts.InfraBlessing),
    )
    assert made.outputs["pushed_model"].type is standard_artifacts.PushedModel
    assert set(made.inputs) == {"model", "model_blessing", "infra_blessing"}
    assert made.exec_properties["directory"] == "gs://bucket/models"
    with pytest.raises(ValueError, match="needs a `model`"):
        Pusher("folder")
