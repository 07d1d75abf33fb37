"""Reads the files that a run's steps wrote: account, model card, history, anomalies, rejects.

The run report shows them. This module imports neither TensorFlow nor TFX.
"""

import json
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.anomaly_gate.anomalies import describe_anomalies, read_anomalies
from components.parquet_files import row_batches
from pipeline.runs.run import CONFIG_FILE, Run
from pipeline.runs.verdict import MissingArtifactError
from trainer.backbone_config import IMAGENET, NONE, BackboneConfig
from trainer.model_card import EXPORTED_CARD, CardError, ModelCard, parse_card
from trainer.optimization.callbacks import STARTS

EXPORT: Final = "Format-Serving"
"""Name that TFX gives to the folder of the SavedModel in a Model artifact."""
_CHOSEN: Final = "best_hyperparameters.txt"
"""Name that TFX gives to the JSON file of KerasTuner in a HyperParameters artifact."""


def read_run_config(run: Run) -> dict[str, Any]:
    """Reads the configuration of the root's latest run; empty if the file is missing."""
    try:
        tree = yaml.safe_load((run.root / CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return tree if isinstance(tree, dict) else {}


def examples_folder(run: Run) -> Path:
    """Returns the folder of the splits."""
    return run.folder("ImageExampleGen", "examples")


def read_account(run: Run) -> dict[str, Any]:
    """Reads the ingest's account."""
    account: dict[str, Any] = _read_json(examples_folder(run) / "account.json")
    return account


def read_rows(run: Run, name: str, most: int) -> pa.Table:
    """Reads the first rows of a table of the ingest, such as `rejects.parquet`."""
    with pq.ParquetFile(examples_folder(run) / name) as file:
        for batch in row_batches(file, batch_size=most):
            return pa.Table.from_batches([batch])
        return file.schema_arrow.empty_table()


def read_split_anomalies(run: Run) -> dict[str, list[str]]:
    """Reads the validator's findings, in words, by split."""
    folder = run.folder("ExampleValidator", "anomalies")
    return {
        path.parent.name.removeprefix("Split-"): describe_anomalies(
            read_anomalies(path.read_bytes())
        )
        for path in sorted(folder.glob("Split-*/SchemaDiff.pb"))
    }


def read_statistics(run: Run) -> dict[str, statistics_pb2.DatasetFeatureStatistics]:
    """Reads the TFDV statistics of each split."""
    folder = run.folder("StatisticsGen", "statistics")
    found = {}
    for path in sorted(folder.glob("Split-*/FeatureStats.pb")):
        listed = statistics_pb2.DatasetFeatureStatisticsList()
        listed.ParseFromString(path.read_bytes())
        found[path.parent.name.removeprefix("Split-")] = listed.datasets[0]
    return found


def model_folder(run: Run) -> Path:
    """Returns the folder of the trained SavedModel."""
    return run.folder("Trainer", "model") / EXPORT


def read_trained_card(run: Run) -> ModelCard:
    """Reads the model card, with classes, shape and embedding size."""
    path = model_folder(run) / EXPORTED_CARD
    try:
        card = parse_card(path.read_bytes())
        return card.require("classes", "image_shape", "embedding_size")
    except OSError as error:
        raise MissingArtifactError(f"{path.name} is missing: {error.strerror}.") from error
    except CardError as error:
        raise MissingArtifactError(f"{path.name} cannot be read: {error}.") from error


def read_warm_start(run: Run) -> str:
    """Describes in one line how many weights came from which model; empty for a cold start."""
    base = read_trained_card(run).base
    return base.line.removeprefix("warm start: ") if base else ""


def read_pretraining(run: Run) -> str:
    """Describes in one line what the model learned before the classes; empty without that."""
    pretraining = read_trained_card(run).pretraining
    return pretraining.line if pretraining else ""


def read_search(run: Run) -> dict[str, Any]:
    """Reads the options that the search chose, by key; empty if there was none."""
    if "Tuner" not in run.steps:
        return {}
    chosen = _read_json(run.folder("Tuner", "best_hyperparameters") / _CHOSEN)["values"]
    # Its own, such as the bracket of Hyperband.
    return {key: value for key, value in chosen.items() if not key.startswith("tuner/")}


def read_origins(run: Run) -> list[str]:
    """Describes what the training started from and whose answers it learned, a line for each."""
    begun_with, teachers = read_warm_start(run) or read_pretraining(run), read_teachers(run)
    backbone = "" if read_warm_start(run) else read_backbone(run)
    lines = [backbone] if backbone else []
    lines += [f"Started from {begun_with}"] if begun_with else []
    return [*lines, f"Taught by {teachers}"] if teachers else lines


def read_backbone(run: Run) -> str:
    """Describes in one line the backbone and its first weights; empty without one."""
    model = read_run_config(run).get("model", {})
    if model.get("encoder") != "backbone":
        return ""
    options = BackboneConfig.model_validate(model.get("backbone") or {})
    weights = {NONE: "random weights", IMAGENET: "ImageNet's weights"}.get(
        options.weights, f"the weights of {options.weights}"
    )
    return f"Backbone {options.name}, from {weights}; what learned: {options.train}"


def read_teachers(run: Run) -> str:
    """Describes in one line whose answers the model learned; empty without teachers."""
    taught = read_trained_card(run).taught
    return taught.line.removeprefix("teachers: ") if taught else ""


def model_run_folder(run: Run) -> Path:
    """Returns the folder that a training writes next to its model: history, pictures, strip."""
    return run.folder("Trainer", "model_run")


def read_history(run: Run) -> list[dict[str, Any]]:
    """Reads the training's history, one record per evaluation."""
    records: list[dict[str, Any]] = _read_json(model_run_folder(run) / "history.json")
    if not records:
        raise MissingArtifactError("The training's history is empty.")
    return records


def read_starts(run: Run) -> dict[str, Any]:
    """Reads the scores of the training's random starts; empty if there was one."""
    path = model_run_folder(run) / STARTS
    record: dict[str, Any] = _read_json(path) if path.exists() else {}
    return record


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise MissingArtifactError(f"{path.name} is missing: {error.strerror}.") from error
    except ValueError as error:
        raise MissingArtifactError(f"{path.name} cannot be read: {error}.") from error
