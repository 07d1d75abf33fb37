"""BulkInference in a pipeline: refuses what was not blessed, labels what was."""

import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from components.bulk_inference.config import BulkConfig
from components.image_sources.config import InputConfig
from tests.components.bulk_inference.archives import digits
from tests.components.bulk_inference.model_fixture import copy_model
from trainer.data import features

tfx_types = pytest.importorskip("tfx.types")
standard_artifacts = pytest.importorskip("tfx.types.standard_artifacts")


def artifacts(folder: Path, exported: Path, *, blessed: bool) -> dict[str, list[object]]:
    model = standard_artifacts.Model()
    model.uri = str(folder / "model")
    copy_model(exported, folder / "model" / "Format-Serving")
    blessing = standard_artifacts.ModelBlessing()
    blessing.uri = str(folder / "blessing")
    (folder / "blessing").mkdir()
    (folder / "blessing" / ("BLESSED" if blessed else "NOT_BLESSED")).touch()
    blessing.set_int_custom_property("blessed", int(blessed))
    examples = standard_artifacts.Examples()
    examples.uri = str(folder / "examples")
    examples.split_names = json.dumps([features.UNLABELLED])
    split = folder / "examples" / f"Split-{features.UNLABELLED}"
    split.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(split / "data-00000-of-00001")) as writer:
        for name, data in digits(20).items():
            feature = {
                features.ENCODED: tf.train.Feature(bytes_list=tf.train.BytesList(value=[data])),
                features.FILENAME: tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[name.encode()])
                ),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return {"model": [model], "model_blessing": [blessing], "examples": [examples]}


def do(folder: Path, inputs: dict[str, list[object]]) -> object:
    from components.bulk_inference.executor import Executor

    output = standard_artifacts.InferenceResult()
    output.uri = str(folder / "annotations")
    properties = {"bulk_config": BulkConfig().model_dump_json(), "split": None}
    Executor().Do(inputs, {"annotations": [output]}, properties)
    return output


def test_an_unblessed_model_is_refused_loudly(tmp_path: Path, model: Path) -> None:
    from components.bulk_inference.executor import UnblessedModelError

    with pytest.raises(
        UnblessedModelError, match="this model was not blessed, so no image is labelled"
    ):
        do(tmp_path, artifacts(tmp_path, model, blessed=False))
    inputs = artifacts(tmp_path / "again", model, blessed=True)
    check = standard_artifacts.InfraBlessing()
    check.uri = str(tmp_path / "check")
    check.set_int_custom_property("blessed", 0)
    with pytest.raises(UnblessedModelError, match=f"refused by the check .* in {tmp_path}/check"):
        do(tmp_path, {**inputs, "infra_blessing": [check]})
    assert not (tmp_path / "annotations" / "table").exists()


def test_the_examples_of_a_pipeline_are_labelled(tmp_path: Path, model: Path) -> None:
    output = do(tmp_path, artifacts(tmp_path, model, blessed=True))
    assert output.get_int_custom_property("rows") == 20  # type: ignore[attr-defined]
    files = sorted((tmp_path / "annotations" / "table").rglob("*.parquet"))
    assert sum(pq.read_metadata(file).num_rows for file in files) == 20


def test_an_archive_is_labelled_once_and_again_when_it_has_changed(
    tmp_path: Path, model: Path
) -> None:
    from components.bulk_inference.component import BulkInference
    from components.tfx_api import tfx
    from pipeline.runs.store import latest_run

    copy_model(model, tmp_path / "model" / "Format-Serving")
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config(
        str(tmp_path / "metadata.sqlite")
    )

    def run(count: int) -> tuple[bool, int]:
        """Labels an archive of so many digits; whether the cache served it, and its rows."""
        with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
            for name, data in digits(count).items():
                archive.writestr(zipfile.ZipInfo(f"{name}.png"), data)
        imported = tfx.dsl.Importer(
            source_uri=str(tmp_path / "model"), artifact_type=standard_artifacts.Model
        ).with_id("model")
        labelling = BulkInference(
            imported.outputs["result"],
            BulkConfig(input=InputConfig(paths=(str(tmp_path / "scans.zip"),))),
        )
        tfx.orchestration.LocalDagRunner().run(
            tfx.dsl.Pipeline(
                pipeline_name="labelling",
                pipeline_root=str(tmp_path / "artifacts"),
                components=[imported, labelling],
                enable_cache=True,
                metadata_connection_config=connection,
            )
        )
        step = latest_run(tmp_path).steps["BulkInference"]
        return step.cached, step.properties["annotations"][0]["rows"]

    assert run(10) == (False, 10)
    assert run(10) == (True, 10)
    assert run(12) == (False, 12)


def test_the_component_takes_images_from_one_place() -> None:
    from components.bulk_inference.component import BulkInference

    model = tfx_types.Channel(type=standard_artifacts.Model)
    examples = tfx_types.Channel(type=standard_artifacts.Examples)
    with pytest.raises(ValueError, match="give exactly one of them"):
        BulkInference(model, BulkConfig())
    archives = BulkConfig(input=InputConfig(paths=("a.zip",)))
    with pytest.raises(ValueError, match="give exactly one of them"):
        BulkInference(model, archives, examples=examples)
    component = BulkInference(model, archives, input_fingerprint="abc")
    assert component.outputs["annotations"].type is standard_artifacts.InferenceResult
    stored = BulkConfig.model_validate_json(component.exec_properties["bulk_config"])
    assert stored == archives
