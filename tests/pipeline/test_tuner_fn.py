"""KerasTuner as a step: its best options reach the Trainer."""

import json
from pathlib import Path
from typing import Any

import pytest
from tfx.proto import trainer_pb2

from components.tfx_api import tfx
from pipeline.runs.step import Step
from pipeline.runs.store import latest_run
from tests.pipeline import small_training

SPACE = {
    "trainer.optimizer.learning_rate": {"low": 1e-3, "high": 2e-3, "log": True},
    "model.latent_size": {"values": [2, 3]},
}


def run_tuned(inputs: Path, root: Path, tuner_options: dict[str, Any]) -> dict[str, Step]:
    """Runs a pipeline of just Tuner and Trainer on what stands for the steps before them."""
    examples = tfx.dsl.Importer(
        source_uri=str(inputs / "examples"),
        artifact_type=tfx.types.standard_artifacts.Examples,
        properties={"split_names": json.dumps(list(small_training.SPLITS))},
        custom_properties={"file_format": "tfrecords_gzip", "payload_format": "FORMAT_TF_EXAMPLE"},
    ).with_id("examples")
    transform = tfx.dsl.Importer(
        source_uri=str(inputs / "transform"),
        artifact_type=tfx.types.standard_artifacts.TransformGraph,
    ).with_id("transform")
    options = small_training.options(epochs=1, tuner=tuner_options)
    custom = {
        "training": json.dumps(options),
        "code_digest": "code",
        "training_folders": str(root / "training"),
    }
    common: dict[str, Any] = {
        "examples": examples.outputs["result"],
        "transform_graph": transform.outputs["result"],
        "train_args": trainer_pb2.TrainArgs(splits=["train"]),
        "eval_args": trainer_pb2.EvalArgs(splits=["train"]),
        "custom_config": custom,
    }
    tuner = tfx.components.Tuner(tuner_fn="pipeline.tuner_fn.tuner_fn", **common)
    trainer = tfx.components.Trainer(
        run_fn="pipeline.run_fn.run_fn",
        hyperparameters=tuner.outputs["best_hyperparameters"],
        **common,
    )
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config(
        str(root / "metadata.sqlite")
    )
    pipeline = tfx.dsl.Pipeline(
        pipeline_name="tuned",
        pipeline_root=str(root / "artifacts"),
        components=[examples, transform, tuner, trainer],
        enable_cache=True,
        metadata_connection_config=connection,
    )
    tfx.orchestration.LocalDagRunner().run(pipeline)
    return latest_run(root).steps


@pytest.mark.slow
def test_the_best_of_two_trials_is_trained(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_training.export_little(monkeypatch)
    root = tmp_path / "root"
    steps = run_tuned(inputs, root, {"enabled": True, "trials": 2, "epochs": 0.5, "space": SPACE})
    results = json.loads(
        (Path(steps["Tuner"].output("tuner_results")) / "tuner_results.json").read_text()
    )
    assert len(results) == 2
    best = min(results, key=lambda trial: trial["score"])
    extra = Path(steps["Trainer"].output("model")) / "Format-Serving" / "assets.extra"
    assert (
        json.loads((extra / "model.json").read_text())["embedding_size"]
        == (best["model.latent_size"])
    )
    assert f"{best['trainer.optimizer.learning_rate']}" in (extra / "config.yaml").read_text()
    assert not any((root / "training").iterdir())

    again = run_tuned(inputs, root, {"enabled": True, "trials": 2, "epochs": 0.5, "space": SPACE})
    assert again["Tuner"].cached
    assert again["Trainer"].cached
