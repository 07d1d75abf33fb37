"""One trained and exported model for all tests of serving."""

import functools
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import apache_beam as beam
import cv2
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from PIL import Image
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from pipeline.config import load_config
from pipeline.digits import write_digits
from serving.export import export_model
from serving.local_model import LocalModel
from trainer.config import ImageConfig
from trainer.data import features
from trainer.data.input_pipeline import ImageSet
from trainer.data.preprocessing import RecordTransform, preprocessing_fn
from trainer.model.vae_classifier import VaeClassifier
from trainer.model_card import Digests, ModelCard
from trainer.train import train

IMAGE = ImageConfig(height=8, width=8, channels=1)

CONFIG_YAML = "name: digits"


@dataclass(frozen=True)
class Exported:
    """A model in memory, its export, and images that it has not seen.

    Attributes:
        folder: the SavedModel.
        model: what was exported.
        transform: the graph before it.
        contents: PNG files.
        pixels: the same images, uint8 [n, 8, 8, 1].
        labels: their classes.
    """

    folder: Path
    model: VaeClassifier
    transform: RecordTransform
    contents: list[bytes]
    pixels: np.ndarray
    labels: list[str]


@dataclass(frozen=True)
class Reloaded:
    """An export that is loaded: each load would trace and optimise its signatures anew.

    Attributes:
        model: as `vaeline predict` loads it.
        signatures: its functions, by name.
    """

    model: LocalModel
    signatures: Mapping[str, Any]


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def strings(contents: list[bytes]) -> np.ndarray:
    """Files as a tensor of strings; NumPy's own type would cut zeros off their ends."""
    array = np.empty(len(contents), object)
    array[:] = contents
    return array


def digits(folder: Path) -> Iterator[tuple[bytes, str]]:
    with zipfile.ZipFile(write_digits(folder).labelled) as archive:
        for name in archive.namelist():
            yield archive.read(name), name.split("/")[1]


def transformed(folder: Path) -> Iterator[tuple[bytes, str]]:
    """The digits that Transform sees, which is enough: every fourth one."""
    return islice(digits(folder), 0, None, 4)


@pytest.fixture(scope="session")
def transform_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Transform graph of the digits, as TFX's Transform writes it."""
    folder = tmp_path_factory.mktemp("transform")
    rows = [
        {features.ENCODED: [content], features.LABEL_TEXT: [label.encode()]}
        for content, label in transformed(folder)
    ]
    spec = {
        features.ENCODED: tf.io.FixedLenFeature([1], tf.string),
        features.LABEL_TEXT: tf.io.FixedLenFeature([1], tf.string),
    }
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    function = functools.partial(preprocessing_fn, custom_config={"image": IMAGE.model_dump()})
    with (
        beam.Pipeline(runner="FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(folder / "temporary")),
    ):
        data = (pipeline | beam.Create(rows), metadata)
        _ = (
            data
            | tft_beam.AnalyzeDataset(function)
            | tft_beam.WriteTransformFn(str(folder / "graph"))
        )
    return folder / "graph"


@pytest.fixture(scope="session")
def exported(transform_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    images = list(digits(folder))
    order = np.random.default_rng(1).permutation(len(images))
    contents = [images[place][0] for place in order]
    labels = [images[place][1] for place in order]
    pixels = np.stack(
        [cv2.imdecode(np.frombuffer(c, np.uint8), cv2.IMREAD_GRAYSCALE) for c in contents]
    )[..., np.newaxis]
    transform = RecordTransform(transform_graph, IMAGE)
    numbers = np.array([transform.classes.index(label) for label in labels], np.int32)
    config = load_config(
        "digits", overrides=["trainer.epochs=8", "trainer.tensorboard=false"], root=folder
    )
    mean, std = transform.moments()
    result = train(
        model_config=config.model,
        trainer_config=config.trainer,
        data={
            features.TRAIN: ImageSet(pixels[:900], numbers[:900]),
            features.CALIBRATION: ImageSet(pixels[900:1100], numbers[900:1100]),
        },
        image_shape=(8, 8, 1),
        num_classes=len(transform.classes),
        pixel_mean=mean.tolist(),
        pixel_std=std.tolist(),
        workdir=folder / "run",
    )
    export_model(
        folder / "model" / "1",
        model=result.model,
        transform=transform,
        card=ModelCard(digests=Digests(model="abc")),
        config_yaml=CONFIG_YAML,
    )
    return Exported(
        folder / "model" / "1",
        result.model,
        transform,
        contents[1100:],
        pixels[1100:],
        labels[1100:],
    )


@pytest.fixture(scope="session")
def reloaded(exported: Exported) -> Reloaded:
    model = LocalModel(str(exported.folder))
    return Reloaded(model, model._model.signatures)
