"""Summarises the training images in numbers, for later drift checks.

`train.py` computes the summary once. The pushed model contains it as plain JSON, and a later job
compares its images with it.
"""

from typing import Any

import numpy as np

from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.quality.evaluation import Forward, fitting_batch

_MOST_IMAGES = 5_000
_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_PIXEL_BINS = 32
_SCALARS = ("elbo", "reconstruction_error", "kl", "outlier_score")


def pixel_summary(images: np.ndarray) -> dict[str, Any]:
    """Computes a histogram of pixel values, and quantiles of brightness and contrast.

    Args:
        images: uint8 [n, height, width, channels].
    """
    counts = np.bincount(images.reshape(-1), minlength=256).reshape(_PIXEL_BINS, -1).sum(axis=1)
    flat = images.reshape(len(images), -1).astype(np.float32) / 255.0
    return {
        "histogram": (counts / counts.sum()).tolist(),
        "brightness": _quantiles(flat.mean(axis=1)),
        "contrast": _quantiles(flat.std(axis=1)),
    }


def summarise_images(
    model: VaeClassifier, data: ImageSet, *, seed: int, batch_size: int = 512
) -> dict[str, Any]:
    """Summarises the pixels and the model's outputs for a split.

    Args:
        model: a calibrated model.
        data: the split; at most 5,000 of its images are used.
        seed: seed of the choice of images.
        batch_size: largest number of images per call.

    Returns:
        Plain values: `images` (their number), `levels` (of all quantiles), `pixels`, `latent`
        (mean, standard deviation and quantiles of mu by dimension, mean posterior variance),
        `classes` (share of each predicted class), `confidence`, and quantiles of the scores.
    """
    if len(data) > _MOST_IMAGES:
        places = np.random.default_rng([seed, 3]).permutation(len(data))[:_MOST_IMAGES]
        data = data.take(np.sort(places))
    names = ("embedding", "log_variance", "probabilities", *_SCALARS)

    def seen(pixels: Any) -> dict[str, Any]:
        results = model.analyse(pixels)
        return {name: results[name] for name in names}

    results = Forward(seen, model.image_shape, fitting_batch(batch_size, len(data)))(data.images)
    latent, probabilities = results["embedding"], results["probabilities"]
    classes = np.bincount(probabilities.argmax(axis=-1), minlength=model.num_classes)
    return {
        "images": len(data),
        "levels": list(_LEVELS),
        "pixels": pixel_summary(data.images),
        "latent": {
            "mean": latent.mean(axis=0).tolist(),
            "std": latent.std(axis=0).tolist(),
            "quantiles": np.quantile(latent, _LEVELS, axis=0).T.tolist(),
            "posterior_variance": np.exp(results["log_variance"]).mean(axis=0).tolist(),
        },
        "classes": (classes / len(data)).tolist(),
        "confidence": _quantiles(probabilities.max(axis=-1)),
        **{
            name: _quantiles(results[name]) for name in _SCALARS if np.isfinite(results[name]).all()
        },
    }


def _quantiles(values: np.ndarray) -> list[float]:
    return np.quantile(values.astype(np.float64), _LEVELS).tolist()
