"""The TFX component: its channels, its driver, its executor, and TFX's readers on its artifact."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.bulk_inference.config import BulkConfig, BulkJob
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource
from tests import archives
from tests.components.test_image_example_gen import read_records
from trainer.data import features

pytestmark = pytest.mark.slow

BEAM_ARGS = ["--runner=FnApiRunner"]


def execute(artifact_dir: Path, properties: dict[str, Any]) -> Any:
    """Runs the executor; gives the artifact."""
    from tfx.dsl.components.base import base_beam_executor
    from tfx.types import standard_artifacts

    from components.image_example_gen import executor

    artifact = standard_artifacts.Examples()
    artifact.uri = str(artifact_dir)
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=list(BEAM_ARGS), tmp_dir=str(artifact_dir / "tmp")
    )
    executor.Executor(context).Do({}, {"examples": [artifact]}, properties)
    return artifact


def drive(properties: dict[str, Any]) -> dict[str, Any]:
    """Runs the driver; gives the execution's properties."""
    from tfx.orchestration.portable import data_types

    from components.image_example_gen import driver

    info = data_types.ExecutionInfo(exec_properties=properties)
    result = driver.Driver(None).run(info)
    return {
        name: getattr(value, value.WhichOneof("value"))
        for name, value in result.exec_properties.items()
    }


def test_component_declares_examples() -> None:
    from tfx.types import standard_artifacts

    from components.image_example_gen.component import ImageExampleGen
    from components.image_sources.config import InputConfig

    component = ImageExampleGen({"paths": "a.zip"}, threads=2)
    assert component.outputs["examples"].type == standard_artifacts.Examples
    properties = component.spec.exec_properties
    assert properties["threads"] == 2
    assert InputConfig.model_validate_json(properties["input_config"]) == InputConfig(
        paths=("a.zip",)
    )
    same = ImageExampleGen(properties["input_config"])
    assert same.spec.exec_properties["input_config"] == properties["input_config"]


def test_driver_sees_spans_and_changes(tmp_path: Path) -> None:
    archives.write_folder(tmp_path, {"1.zip": archives.zip_bytes(archives.classes(2))})
    properties = {"input_config": json.dumps({"paths": [f"{tmp_path}/{{SPAN}}.zip"]})}
    first = drive(properties)
    assert first["span"] == 1
    assert json.loads(first["input_config"])["paths"] == [f"{tmp_path}/1.zip"]
    assert drive(properties) == first
    archives.write_folder(tmp_path, {"2.zip": archives.zip_bytes(archives.classes(3))})
    second = drive(properties)
    assert second["span"] == 2
    assert second["input_fingerprint"] != first["input_fingerprint"]


def test_executor_writes_what_tfx_reads(tmp_path: Path) -> None:
    """TFX's own readers, by Beam and by tf.data, find every record of every split."""
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from tfx.components.util import tfxio_utils
    from tfx.types import artifact_utils
    from tfx_bsl.tfxio import dataset_options

    path = archives.write(tmp_path / "a.zip", {**archives.classes(12), "x.png": archives.png(88)})
    out = tmp_path / "out"
    artifact = execute(out, drive({"input_config": json.dumps({"paths": [str(path)]})}))
    assert artifact_utils.decode_split_names(artifact.split_names) == list(features.SPLITS)
    assert artifact.span == 0
    assert artifact.get_int_custom_property("images") == 37
    assert len(artifact.get_string_custom_property("input_fingerprint")) == 64
    expected = json.loads((out / "account.json").read_text())["splits"]
    assert expected["unlabelled"] == 1
    assert sum(expected.values()) == 37
    for split in features.SPLITS:
        tfxio = tfxio_utils.get_split_tfxio([artifact], split, telemetry_descriptors=["test"])
        rows: list[int] = []
        with beam.Pipeline(FnApiRunner()) as pipeline:
            _ = (
                pipeline
                | tfxio.BeamSource(batch_size=7)
                | beam.Map(lambda batch: batch.num_rows)
                | beam.combiners.ToList()
                | beam.Map(lambda found: (Path(out) / "rows").write_text(json.dumps(found)))
            )
        rows = json.loads((out / "rows").read_text())
        assert sum(rows) == expected[split]
        batches = tfxio.RecordBatches(
            dataset_options.RecordBatchesOptions(batch_size=7, num_epochs=1)
        )
        assert sum(batch.num_rows for batch in batches) == expected[split]


def test_an_image_has_the_same_key_in_ingest_and_in_a_bulk_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with relative paths, with which both are often called."""
    (tmp_path / "data").mkdir()
    archives.write(tmp_path / "data/a.zip", archives.classes(4))
    archives.write_folder(tmp_path / "data/new", {"1.png": archives.png(88), "2.png": b"none"})
    archives.write_folder(tmp_path / "data/listed", {"3.png": archives.png(99)})
    (tmp_path / "data/list.csv").write_text("path,label\nlisted/3.png,cat\n")
    monkeypatch.chdir(tmp_path)
    given = {"paths": ["data/a.zip", "data/new", "data/list.csv"], "max_rejected_share": 1.0}

    properties = drive({"input_config": json.dumps(given)})
    execute(tmp_path / "out", properties)
    ingested = [
        record[features.FILENAME][0].decode()
        for split in read_records(tmp_path / "out").values()
        for record in split
    ]
    assert all(name.startswith(str(tmp_path / "data")) for name in ingested)

    job = BulkJob.of(BulkConfig(input=InputConfig.model_validate(given), output="table"))
    source = ImageSource(job.input)
    labelled = {key for unit in source.units() for batch in source.read(unit) for key in batch.keys}
    assert len(ingested) == len(labelled) - 1
    assert labelled - set(ingested) == {str(tmp_path / "data/new/2.png")}


def test_a_relative_path_stays_relative_in_the_properties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached ingest stays cached when its root moves together with the images."""
    (tmp_path / "one").mkdir()
    archives.write(tmp_path / "one/a.zip", archives.classes(2))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    driven = []
    for folder in ("one", "two"):
        monkeypatch.chdir(tmp_path / folder)
        driven.append(drive({"input_config": json.dumps({"paths": ["a.zip"]})}))
    assert driven[0] == driven[1]


def test_executor_without_a_driver_resolves_spans(tmp_path: Path) -> None:
    for day in ("2024-01-01", "2024-01-02"):
        files = archives.classes(4) if day.endswith("1") else {"cat/new.png": archives.png(9000)}
        archives.write_folder(tmp_path / day, files)
    config = {"paths": [f"{tmp_path}/{{YYYY}}-{{MM}}-{{DD}}"], "spans": {"latest": 2}}
    artifact = execute(tmp_path / "out", {"input_config": json.dumps(config)})
    assert artifact.span == 19724
    assert artifact.get_int_custom_property("images") == 13


def test_pipeline_uses_its_cache_until_an_image_changes(tmp_path: Path) -> None:
    from ml_metadata.metadata_store import metadata_store

    from components.image_example_gen.component import ImageExampleGen
    from components.tfx_api import tfx

    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config(
        str(tmp_path / "metadata.db")
    )

    def run() -> list[int]:
        tfx.orchestration.LocalDagRunner().run(
            tfx.dsl.Pipeline(
                pipeline_name="ingest",
                pipeline_root=str(tmp_path / "root"),
                components=[ImageExampleGen({"paths": str(tmp_path / "a.zip")})],
                enable_cache=True,
                metadata_connection_config=connection,
                beam_pipeline_args=BEAM_ARGS,
            )
        )
        store = metadata_store.MetadataStore(connection)
        artifacts = store.get_artifacts_by_type("Examples")
        return [artifact.custom_properties["images"].int_value for artifact in artifacts]

    archives.write(tmp_path / "a.zip", archives.classes(4))
    assert run() == [12]
    assert run() == [12]
    archives.write(tmp_path / "a.zip", archives.classes(5))
    assert run() == [12, 15]
