"""The exported model against the model in memory, over the 10,000 test images of MNIST.

`python -m benchmarks.serving_parity --data DIR [--epochs 1]`
Trains the reference model, exports it behind a Transform graph, and asks the export for each image
as a PNG and as pixels, in a fresh process with a TF1 session.
"""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from benchmarks.image_sets import mnist, parser, record, split_off
from serving import names
from serving.export import export_model
from trainer.config import ImageConfig, ModelConfig, TrainerConfig
from trainer.data import features
from trainer.data.examples import pixel_moments
from trainer.data.input_pipeline import ImageSet
from trainer.data.preprocessing import RecordTransform, preprocessing_fn
from trainer.model_card import ModelCard
from trainer.train import train

_IMAGE = ImageConfig(height=28, width=28, channels=1)
_BATCH = 500


def make_transform(images: ImageSet, files: list[bytes], folder: Path) -> RecordTransform:
    """Runs the preprocessing's analysis over some images."""
    rows = [
        {features.ENCODED: [file], features.LABEL_TEXT: [str(label).encode()]}
        for file, label in zip(files, images.labels, strict=True)
    ]
    spec = {
        name: tf.io.FixedLenFeature([1], tf.string)
        for name in (features.ENCODED, features.LABEL_TEXT)
    }
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    function = functools.partial(preprocessing_fn, custom_config={"image": _IMAGE.model_dump()})
    with beam.Pipeline(runner="FnApiRunner") as pipeline, tft_beam.Context(temp_dir=str(folder)):
        data = (pipeline | beam.Create(rows), metadata)
        analysed = data | tft_beam.AnalyzeDataset(function)
        _ = analysed | tft_beam.WriteTransformFn(str(folder / "graph"))
    return RecordTransform(folder / "graph", _IMAGE)


def in_memory(model: Any, images: np.ndarray) -> np.ndarray:
    """Probabilities of levels, float32 [n, classes]."""
    parts = np.split(images, range(_BATCH, len(images), _BATCH))
    return np.concatenate(
        [model.analyse(tf.constant(part, tf.float32) / 255.0)["probabilities"] for part in parts]
    )


def in_session(model: str, folder: str) -> None:
    """Answers the files and pixels of a folder; runs in the fresh process."""
    from components.serving_check.session import SessionModel

    loaded = SessionModel(model)
    pixels = np.load(f"{folder}/pixels.npy")
    files = [tf.io.encode_png(image).numpy() for image in pixels]
    for signature, argument, values in (
        (names.ANNOTATE, names.IMAGE_BYTES, np.array(files, object)),
        (names.ANNOTATE_PIXELS, names.PIXELS, pixels),
    ):
        parts = np.split(values, range(_BATCH, len(values), _BATCH))
        answers = [loaded.predict(signature, {argument: part}) for part in parts]
        found = np.concatenate([answer[names.PROBABILITIES] for answer in answers])
        np.save(f"{folder}/{signature}.npy", found)


def main() -> None:
    """Trains, exports, compares, prints the record."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--epochs", type=float, default=1.0)
    arguments = made.parse_args()
    full, test = mnist(arguments.data)
    data = split_off(full, {"validation": 1000, "calibration": 4000}, seed=1)
    sample = data["validation"]
    files = [tf.io.encode_png(image).numpy() for image in sample.images]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        transform = make_transform(sample, files, folder / "transform")
        mean, std = pixel_moments(data["train"])
        result = train(
            model_config=ModelConfig(),
            trainer_config=TrainerConfig(epochs=arguments.epochs, tensorboard=False),
            data=data,
            image_shape=_IMAGE.shape,
            num_classes=len(transform.classes),
            pixel_mean=mean,
            pixel_std=std,
            workdir=folder / "run",
        )
        model = str(folder / "model")
        export_model(
            model,
            model=result.model,
            transform=transform,
            card=ModelCard(),
            config_yaml="name: serving-parity",
            golden=files,
        )
        expected = in_memory(result.model, test.images)
        np.save(folder / "pixels.npy", test.images)
        code = (
            "import sys; from benchmarks.serving_parity import in_session; "
            "in_session(*sys.argv[1:])"
        )
        subprocess.run([sys.executable, "-c", code, model, str(folder)], check=True)
        results: dict[str, Any] = {"images": len(test)}
        for signature in (names.ANNOTATE, names.ANNOTATE_PIXELS):
            found = np.load(folder / f"{signature}.npy")
            results[signature] = {
                "different_labels": int((found.argmax(1) != expected.argmax(1)).sum()),
                "largest_difference": float(np.abs(found - expected).max()),
                "accuracy": float((found.argmax(1) == test.labels).mean()),
            }
    record(arguments, "serving_parity", results)


if __name__ == "__main__":
    main()
