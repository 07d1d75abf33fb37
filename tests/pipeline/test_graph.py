"""The DAG: its steps, and what its cache keys hold."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import digests
from pipeline.config import PipelineConfig, parse_config
from pipeline.graph import Places, create_pipeline

STEPS = [
    "ImageExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "AnomalyGate",
    "Transform",
    "Trainer",
    "ServingCheck",
    "baseline_model",
    "Evaluator",
    "Pusher",
]


def config(**sections: Any) -> PipelineConfig:
    return parse_config({"input": {"paths": "archive.zip"}, **sections})


def properties(
    configuration: PipelineConfig, code_digest: str = "code"
) -> dict[str, dict[str, Any]]:
    """Exec properties by step: with its inputs they are a step's cache key."""
    places = Places(artifacts="/nowhere")
    dag = create_pipeline(configuration, places=places, code_digest=code_digest)
    return {step.id: dict(step.exec_properties) for step in dag.components}


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {step for step in before if before[step] != after[step]}


def test_every_step_is_there_in_order() -> None:
    assert list(properties(config())) == STEPS


def test_a_curated_schema_takes_the_place_of_the_inferred_one() -> None:
    steps = list(properties(config(schema={"path": "schema.pbtxt"})))
    assert "ImportSchemaGen" in steps
    assert "SchemaGen" not in steps


def test_a_changed_line_of_code_reaches_the_steps_that_run_it() -> None:
    before, after = properties(config(), "one"), properties(config(), "two")
    assert changed(before, after) == {
        "ImageExampleGen", "Transform", "Trainer", "ServingCheck",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sections", "steps"),
    [
        ({"trainer": {"epochs": 3}}, {"Trainer"}),
        ({"image": {"height": 14, "width": 14}}, {"Transform", "Trainer"}),
        ({"evaluation": {"min_accuracy": 0.5}}, {"Evaluator"}),
        ({"serving_check": {"tolerance": 0.01}}, {"ServingCheck"}),
        ({"push": {"directory": "/elsewhere"}}, {"Pusher"}),
        ({"input": {"paths": "other.zip"}}, {"ImageExampleGen", "Trainer"}),
        ({"schema": {"path": "schema.pbtxt"}}, {"Trainer", "ImportSchemaGen"}),
    ],
)
def test_a_changed_value_reaches_the_steps_that_use_it(
    sections: dict[str, Any], steps: set[str]
) -> None:
    before, after = properties(config()), properties(config(**sections))
    new = {step for step in after if before.get(step) != after[step]}
    assert new == steps


def test_training_never_gets_the_test_split() -> None:
    training = json.loads(properties(config())["Trainer"]["custom_config"])["training"]
    assert set(json.loads(training)) == {"name", "input", "image", "schema", "model", "trainer"}


def test_the_code_digest_sees_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pipeline", "components", "trainer", "serving"):
        shutil.copytree(digests.project_root() / package, tmp_path / package)
    original = digests.code_digest()
    monkeypatch.setattr(digests, "project_root", lambda: tmp_path)
    assert digests.code_digest() == original
    with (tmp_path / "trainer" / "losses.py").open("a") as file:
        file.write("# a comment\n")
    edited = digests.code_digest()
    assert edited != original
    (tmp_path / "components" / "new.py").write_text("")
    assert digests.code_digest() not in {original, edited}
