"""BulkInference in a pipeline: refuses what was not blessed, labels what was."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from components.bulk_inference.config import BulkConfig
from components.image_sources.config import InputConfig
from tests.components.bulk_inference.archives import digits
from tests.components.bulk_inference.model_fixture import export_model
from trainer import features

tfx_types = pytest.importorskip("tfx.types")
standard_artifacts = pytest.importorskip("tfx.types.standard_artifacts")


def artifacts(folder: Path, *, blessed: bool) -> dict[str, list[object]]:
    model = standard_artifacts.Model()
    model.uri = str(folder / "model")
    (folder / "model").mkdir()
    export_model(folder / "model" / "Format-Serving")
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


def test_an_unblessed_model_is_refused_loudly(tmp_path: Path) -> None:
    from components.bulk_inference.executor import UnblessedModelError

    with pytest.raises(UnblessedModelError, match="the Evaluator did not bless this model"):
        do(tmp_path, artifacts(tmp_path, blessed=False))
    assert not (tmp_path / "annotations" / "table").exists()


def test_the_examples_of_a_pipeline_are_labelled(tmp_path: Path) -> None:
    output = do(tmp_path, artifacts(tmp_path, blessed=True))
    assert output.get_int_custom_property("rows") == 20  # type: ignore[attr-defined]
    files = sorted((tmp_path / "annotations" / "table").rglob("*.parquet"))
    assert sum(pq.read_metadata(file).num_rows for file in files) == 20


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
