"""A small SavedModel with the signatures of a pushed vaeline model, its weights from a seed.

The bulk job's tests and benchmarks use it where no trained model is at hand: plain TensorFlow,
one dense layer each way, so that exporting takes a second. Its floats depend on the number of rows
of a call in their last bits, as those of real kernels do on some processors.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

BOUNDS = {
    "blank": {"below": 8.0},
    "dark": {"below": 100.0},
    "odd_aspect_ratio": {"above": 2.0},
    "odd_size": {"below": 4.0, "above": 16.0},
}
"""Bounds of findings, wide enough for digits."""


def export_model(
    directory: Path,
    *,
    shape: tuple[int, int, int] = (8, 8, 1),
    classes: tuple[str, ...] = tuple("0123456789"),
    embedding: int = 4,
    hidden: int = 32,
    top_k: int = 3,
    seed: int = 7,
    accurate_jpeg: bool = True,
) -> Path:
    """Writes a model directory (`saved_model.pb`, `assets.extra/model.json`).

    Args:
        directory: The version directory to make.
        shape: Height, width and channels of the model's images.
        classes: Names of the classes.
        embedding: Size of the latent space.
        hidden: Width of the dense layers.
        top_k: Labels in `top_k_labels`.
        seed: Of the weights.
        accurate_jpeg: Decode JPEG with the accurate integer transform, as OpenCV does; False
            gives TensorFlow's default, the fast one.

    Returns:
        `directory`.
    """
    import tensorflow as tf

    from tests.numeric import jitter
    from trainer.config import ImageConfig
    from trainer.data import pixels as trained_pixels

    height, width, channels = shape
    sides = {"height": height, "width": width, "channels": channels}
    config = ImageConfig.model_validate(sides)
    pixels = height * width * channels
    draw = np.random.default_rng(seed)

    def dense(rows: int, columns: int, gain: float = 1.0) -> tf.Variable:
        values = draw.normal(0.0, gain / np.sqrt(rows), (rows, columns))
        return tf.Variable(values.astype(np.float32))

    class Annotator(tf.Module):
        """The joint model in its smallest form: encode, classify, reconstruct, score."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = dense(pixels, hidden)
            self.mean = dense(hidden, embedding)
            self.log_variance = dense(hidden, embedding, 0.1)
            self.head = dense(hidden, len(classes), 4.0)
            self.first = dense(embedding, hidden)
            self.second = dense(hidden, pixels)
            self.names = tf.constant(classes)

        def analyse(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
            """Everything `annotate` returns, for uint8 [b, height, width, channels]."""
            flat = tf.reshape(tf.cast(images, tf.float32) / 255.0, [-1, pixels])
            features = jitter(tf.nn.relu(flat @ self.encoder))
            mean, log_variance = features @ self.mean, features @ self.log_variance
            probabilities = tf.nn.softmax(features @ self.head)
            logits = tf.nn.relu(mean @ self.first) @ self.second
            error = tf.reduce_sum(
                tf.nn.sigmoid_cross_entropy_with_logits(labels=flat, logits=logits), axis=1
            )
            divergence = 0.5 * tf.reduce_sum(
                mean**2 + tf.exp(log_variance) - log_variance - 1.0, axis=1
            )
            best = tf.math.top_k(probabilities, top_k)
            score = error / pixels
            return {
                "label": tf.gather(self.names, best.indices[:, 0]),
                "label_index": tf.cast(best.indices[:, 0], tf.int64),
                "probability": best.values[:, 0],
                "probabilities": probabilities,
                "top_k_labels": tf.gather(self.names, best.indices),
                "top_k_probabilities": best.values,
                "embedding": mean,
                "elbo": -error - divergence,
                "reconstruction_error": error,
                "outlier_score": score,
                "verdict": tf.where(
                    score > 0.8, "reject", tf.where(score > 0.7, "review", "accept")
                ),
            }

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False
        )
        def annotate(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            def decode(content: tf.Tensor) -> tf.Tensor:
                def any_format() -> tf.Tensor:
                    image = tf.io.decode_image(content, channels=0, expand_animations=False)
                    return tf.ensure_shape(image, [None, None, None])

                def as_exported() -> tf.Tensor:
                    return trained_pixels.decode_file(content, config)

                image = tf.cond(tf.constant(accurate_jpeg), as_exported, any_format)
                return trained_pixels.fit_to_shape(image[tf.newaxis], config)[0]

            spec = tf.TensorSpec(shape, tf.uint8)
            return self.analyse(tf.map_fn(decode, image_bytes, fn_output_signature=spec))

        @tf.function(
            input_signature=[tf.TensorSpec([None, None, None, None], tf.uint8, name="pixels")],
            autograph=False,
        )
        def annotate_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return self.analyse(trained_pixels.fit_to_shape(pixels, config))

    module = Annotator()
    tf.saved_model.save(
        module,
        str(directory),
        signatures={"annotate": module.annotate, "annotate_pixels": module.annotate_pixels},
    )
    card = {
        "format": "vaeline-model/1",
        "classes": list(classes),
        "image_shape": list(shape),
        "embedding_size": embedding,
        "digests": {
            name: f"{name}-{seed}" for name in ("model", "transform", "calibration", "code")
        },
        "summaries": {},
        "findings": BOUNDS,
    }
    extra = directory / "assets.extra"
    extra.mkdir()
    (extra / "model.json").write_text(json.dumps(card), encoding="utf-8")
    return directory


def copy_model(model: Path, directory: Path, **facts: Any) -> Path:
    """Copies a model directory, which takes milliseconds where an export takes a second.

    Args:
        model: Where it is.
        directory: Where to.
        facts: What its model.json has of another kind; None removes a fact.

    Returns:
        `directory`.
    """
    shutil.copytree(model, directory)
    path = directory / "assets.extra" / "model.json"
    card = {**json.loads(path.read_text()), **facts}
    path.write_text(json.dumps({k: v for k, v in card.items() if v is not None}))
    return directory


_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def summarise(images: np.ndarray, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Summaries in the form of a trained model's card.

    Args:
        images: uint8 [n, height, width, channels], the training data.
        outputs: What the model answers to them.
    """

    def quantiles(values: np.ndarray) -> list[float]:
        return np.quantile(values.astype(np.float64), _LEVELS, axis=0).T.tolist()

    flat = images.reshape(len(images), -1).astype(np.float32) / 255.0
    histogram = np.bincount(images.ravel() // 8, minlength=32)
    classes = outputs["probabilities"].shape[1]
    counts = np.bincount(outputs["label_index"], minlength=classes)
    return {
        "images": len(images),
        "levels": list(_LEVELS),
        "pixels": {
            "histogram": (histogram / histogram.sum()).tolist(),
            "brightness": quantiles(flat.mean(axis=1)),
            "contrast": quantiles(flat.std(axis=1)),
        },
        "latent": {"quantiles": quantiles(outputs["embedding"])},
        "classes": (counts / len(images)).tolist(),
        "confidence": quantiles(outputs["probability"]),
        "outlier_score": quantiles(outputs["outlier_score"]),
        "elbo": quantiles(outputs["elbo"]),
    }
