"""Measures a model on a split: accuracy, cross-entropy and ELBO.

Every image is evaluated exactly once; the last batch is padded to avoid a retrace. `loop.py`,
`calibration.py` and the benchmarks call it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from scipy import special

from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.optimization import losses
from trainer.options import ObjectiveConfig

_SMALLEST_BATCH = 16


def fitting_batch(limit: int, *counts: int) -> int:
    """Chooses the batch size for splits that may be smaller than a batch.

    Every batch is padded to this size, so a large one would cost a small split most of its time.

    Args:
        limit: the largest batch size.
        counts: numbers of images of the splits.

    Returns:
        The power of two that holds the largest split, 16 or more, but at most `limit`.
    """
    return min(limit, max(_SMALLEST_BATCH, 1 << (max(counts, default=0) - 1).bit_length()))


class Forward:
    """Applies a function of pixels to a whole split in batches of one size.

    Args:
        function: maps float32 [batch, h, w, c] in [0, 1] to a dict of tensors [batch, ...].
        image_shape: (height, width, channels).
        batch_size: number of images per call.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor], dict[str, tf.Tensor]],
        image_shape: Sequence[int],
        batch_size: int,
    ) -> None:
        self._batch_size = batch_size
        self._function = tf.function(
            lambda images: function(tf.cast(images, tf.float32) / 255.0),
            input_signature=[tf.TensorSpec([batch_size, *image_shape], tf.uint8)],
            autograph=False,
        ).get_concrete_function()

    def __call__(self, images: np.ndarray, *only: str) -> dict[str, np.ndarray]:
        """Returns the function's results, or those named, for images, uint8 [n, h, w, c]."""
        parts = []
        for start in range(0, max(len(images), 1), self._batch_size):
            part = np.ascontiguousarray(images[start : start + self._batch_size])
            missing = self._batch_size - len(part)
            if missing:
                part = np.concatenate([part, np.zeros([missing, *images.shape[1:]], np.uint8)])
            results = self._function(tf.constant(part))
            keep = self._batch_size - missing
            kept = {name: results[name] for name in only} or results
            parts.append({name: value.numpy()[:keep] for name, value in kept.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def predict_logits(model: VaeClassifier, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the logits of images, uint8 [n, h, w, c], without decoding: float32 [n, K].

    Args:
        model: the model.
        images: the images.
        batch_size: the largest batch.
    """

    def logits(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model.classify(model.encode(pixels))}

    forward = Forward(logits, model.image_shape, fitting_batch(batch_size, len(images)))
    return forward(images)["logits"]


_MEASURED = ("logits", "elbo", "kl", "reconstruction_error")


class Evaluator:
    """Measures a model repeatedly; the graph is traced once.

    Args:
        model: the model; each call uses its current weights.
        batch_size: number of images per call.
    """

    def __init__(self, model: VaeClassifier, batch_size: int) -> None:
        self._model = model

        def measured(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            results = model.measure(pixels)
            return {
                name: results[name] for name in (*_MEASURED, "conditional_bound") if name in results
            }

        self._forward = Forward(measured, model.image_shape, batch_size)

    def __call__(
        self, data: ImageSet, objective: ObjectiveConfig | None = None
    ) -> dict[str, float]:
        """Returns means over the split: accuracy, cross_entropy, elbo (nats), loss and others.

        `reconstruction_error` is the mean square over pixel values in [0, 1].
        Images without a label are left out of the label metrics; a split without labels has no
        accuracy. `loss` is `measured_loss`, by default with the weights of `ObjectiveConfig()`.
        Decoders conditioned on h have a `conditional_bound` instead of an `elbo`.
        """
        results = self._forward(data.images)
        bound = "conditional_bound" if "conditional_bound" in results else "elbo"
        measures = {
            bound: float(np.mean(results[bound], dtype=np.float64)),
            "kl": float(np.mean(results["kl"], dtype=np.float64)),
            "reconstruction_error": float(np.mean(results["reconstruction_error"])),
        }
        measures["bits_per_dimension"] = losses.bits_per_dimension(
            -measures[bound], self._model.dimensions
        )
        labelled = data.labels >= 0
        if labelled.any():
            logits = results["logits"][labelled]
            labels = data.labels[labelled]
            measures["accuracy"] = float(np.mean(np.argmax(logits, -1) == labels))
            measures["cross_entropy"] = negative_log_likelihood(logits, labels)
        measures["loss"] = measured_loss(
            measures, objective or ObjectiveConfig(), self._model.dimensions
        )
        return measures


def measured_loss(
    measures: Mapping[str, float], objective: ObjectiveConfig, dimensions: int
) -> float:
    """Computes the loss with the weights of an objective.

    It has no warm-up of beta, free bits, entropy weight, label smoothing, augmentation or
    unlabelled stream, and the ELBO where the training had the importance-weighted bound.

    Args:
        measures: what `Evaluator` returns.
        objective: its `generative_weight`, `beta` and `alpha` count.
        dimensions: number of values of an image.
    """
    bound = measures["conditional_bound" if "conditional_bound" in measures else "elbo"]
    penalised = bound + (1.0 - objective.beta) * measures["kl"]
    cross_entropy = objective.alpha * measures.get("cross_entropy", 0.0)
    return cross_entropy - objective.generative_weight * penalised / dimensions


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Computes log probabilities, float64 [n, K], of logits of any precision."""
    return special.log_softmax(logits.astype(np.float64), axis=-1)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean of -log p(y|x), nats."""
    return float(-np.mean(log_softmax(logits)[np.arange(len(labels)), labels]))
