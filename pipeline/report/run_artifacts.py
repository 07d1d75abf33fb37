"""What a run left behind, read lazily: steps, account, model card, history, anomalies, rejects.

`run_report.py` makes one; the sections ask it. Nothing here imports TensorFlow or TFX.
"""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from ml_metadata.proto import metadata_store_pb2
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.anomaly_gate.anomalies import describe_anomalies, read_anomalies
from components.bulk_inference.ledger import MANIFEST
from components.image_sources.config import InputConfig
from components.model_gate.verdict import VERDICT_JSON, Verdict, read_verdict
from pipeline.outcome import EXPORT
from pipeline.report.page import MissingPartError, ReportError
from pipeline.run_record import Step, latest_run
from serving import names

_METADATA: Final = "metadata.sqlite"
_ARTIFACTS: Final = "artifacts"


class RunArtifacts:
    """What one run left behind.

    Args:
        root: Folder of `vaeline run --root`.
        steps: The run's steps, by name.
    """

    def __init__(self, root: Path, steps: dict[str, Step]) -> None:
        self.root = root
        self.steps = steps

    def folder(self, step: str, output: str) -> Path:
        """Folder of the only artifact of a step's output.

        Raises:
            MissingPartError: the step did not run or left nothing.
        """
        uris = self.steps[step].outputs.get(output, []) if step in self.steps else []
        if not uris:
            raise MissingPartError(f"{step} left no {output}.")
        folder = self._found(uris[0])
        if folder is None:
            raise MissingPartError(f"The {output} of {step} is gone: {uris[0]}")
        return folder

    def _found(self, uri: str) -> Path | None:
        """The folder of an artifact, also after the root was moved or is named relatively."""
        if os.path.isdir(uri):
            return Path(uri)
        marker = f"/{_ARTIFACTS}/"
        moved = self.root / _ARTIFACTS / uri.rpartition(marker)[2]
        return moved if marker in uri and moved.is_dir() else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's configuration; empty where it is gone."""
        try:
            tree = yaml.safe_load((self.root / "config.yaml").read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return tree if isinstance(tree, dict) else {}

    @cached_property
    def input(self) -> InputConfig:
        """The input section, to read single members again."""
        return InputConfig.model_validate(self.config["input"])

    @cached_property
    def account(self) -> dict[str, Any]:
        """The ingest's account."""
        return _json(self.examples / "account.json")

    @property
    def examples(self) -> Path:
        """Folder of the splits."""
        return self.folder("ImageExampleGen", "examples")

    @property
    def model(self) -> Path:
        """Folder of the trained SavedModel."""
        return self.folder("Trainer", "model") / EXPORT

    @cached_property
    def card(self) -> dict[str, Any]:
        """The model card."""
        return _json(self.model / names.EXTRA_ASSETS / names.MODEL_CARD)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """A record for each evaluation of the training."""
        records: list[dict[str, Any]] = _json(self.folder("Trainer", "model_run") / "history.json")
        if not records:
            raise MissingPartError("The training's history is empty.")
        return records

    @property
    def strip(self) -> Path:
        """Folder of the pictures taken while the training went on."""
        return self.folder("Trainer", "model_run") / "strip"

    @cached_property
    def verdict(self) -> Verdict:
        """What the gate found."""
        path = self.folder("ModelGate", "blessing") / VERDICT_JSON
        try:
            return read_verdict(path.read_text("utf-8"))
        except OSError as error:
            raise MissingPartError(f"The gate left no {VERDICT_JSON}.") from error

    @property
    def pushed(self) -> str:
        """Folder of the pushed version; empty where nothing was pushed."""
        step = self.steps.get("Pusher")
        found = step.properties.get("pushed_model", []) if step else []
        return str(found[0].get("pushed_destination", "")) if found else ""

    def anomalies(self) -> dict[str, list[str]]:
        """What the validator found, in words, by split."""
        folder = self.folder("ExampleValidator", "anomalies")
        return {
            path.parent.name.removeprefix("Split-"): describe_anomalies(
                read_anomalies(path.read_bytes())
            )
            for path in sorted(folder.glob("Split-*/SchemaDiff.pb"))
        }

    def statistics(self) -> dict[str, statistics_pb2.DatasetFeatureStatistics]:
        """TFDV's statistics by split."""
        folder = self.folder("StatisticsGen", "statistics")
        found = {}
        for path in sorted(folder.glob("Split-*/FeatureStats.pb")):
            listed = statistics_pb2.DatasetFeatureStatisticsList()
            listed.ParseFromString(path.read_bytes())
            found[path.parent.name.removeprefix("Split-")] = listed.datasets[0]
        return found

    def table(self, name: str, most: int) -> pa.Table:
        """The first rows of `rejects.parquet` or `duplicates.parquet`."""
        with pq.ParquetFile(self.examples / name) as file:
            for batch in file.iter_batches(batch_size=most):
                return pa.Table.from_batches([batch])
            return file.schema_arrow.empty_table()


def read_latest(root: Path) -> RunArtifacts:
    """Reads which steps the latest run below a root had.

    Args:
        root: Folder of `vaeline run --root`.

    Raises:
        ReportError: no run is recorded there.
    """
    database = root / _METADATA
    if not database.is_file():
        raise ReportError(
            f"{root}: neither {_METADATA} of a run nor {MANIFEST} of a bulk job is there; give the"
            " folder of `vaeline run --root`, or the output of `vaeline classify`"
        )
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(database)
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    steps = latest_run(connection)
    if not steps:
        raise ReportError(f"{root}: no run is recorded in {_METADATA}; run `vaeline run` first")
    return RunArtifacts(root, steps)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise MissingPartError(f"{path.name} is missing: {error.strerror}.") from error
    except ValueError as error:
        raise MissingPartError(f"{path.name} cannot be read: {error}.") from error
