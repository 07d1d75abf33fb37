"""Measures the importance-weighted bound on log p(x) (Burda et al. 2016), beside the ELBO.

`train.py` measures it once after training, the export does for the Evaluator, and the benchmarks
for comparisons with published figures. The samples of z of an image are keyed by its content, so
that its bound depends neither on other images nor on the batch.
"""

import dataclasses
import math
import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.input_pipeline import ImageSet
from trainer.data.pixels import to_levels
from trainer.model.vae_classifier import VaeClassifier
from trainer.optimization import losses

_MOST_IMAGES = 500
_FEWEST_IMAGES = 16
_MOST_DECODED = 20_000_000
"""Pixel values that a report may decode: a quarter of a second with a small dense decoder."""

_CONVOLUTIONAL_COST = 4
"""What a convolutional decoder costs per value, about, in those of a dense one."""

_DECODED_AT_ONCE = 1_000_000
"""Pixel values decoded at a time, which bounds the memory."""

_KEYS = 1 << 20
_HASHES = (1 << 31) - 1
_SHARE_OF_UNKNOWN = 0.1


@dataclasses.dataclass(frozen=True)
class SampledBound:
    """The bound of some images of a stream, as an exported model measures it.

    Attributes:
        samples: number k of samples of z per image.
        share: share of the images that are measured, chosen by their keys.
    """

    samples: int
    share: float = 1.0

    def __call__(
        self, model: VaeClassifier, pixels: tf.Tensor, keys: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the bounds, and the ELBOs from the same samples.

        Args:
            model: a model whose decoder defines a density of the image.
            pixels: float32 [batch, height, width, channels] in [0, 1].
            keys: int64 [batch], hashes of the images.

        Returns:
            Both, float32 [batch], nats; NaN for the images that are not measured.
        """
        chosen = tf.where(keys % _KEYS < round(self.share * _KEYS))
        missing = tf.fill(tf.shape(keys), math.nan)

        def measured() -> tuple[tf.Tensor, tf.Tensor]:
            weights = importance_weights(
                model,
                tf.gather_nd(pixels, chosen),
                tf.gather_nd(keys, chosen),
                samples=self.samples,
            )
            return (
                tf.tensor_scatter_nd_update(missing, chosen, losses.importance_bound(weights)),
                tf.tensor_scatter_nd_update(missing, chosen, tf.reduce_mean(weights, axis=0)),
            )

        # Convolutions of TensorFlow return a wrong shape for a batch without images.
        return tf.cond(tf.size(chosen) > 0, measured, lambda: (missing, missing))


def image_keys(pixels: tf.Tensor) -> tf.Tensor:
    """Hashes images by their levels, so that a photo and its copy at the model's size are equal.

    Args:
        pixels: float32 [batch, height, width, channels] in [0, 1].

    Returns:
        int64 [batch], the same on every processor.
    """
    levels = tf.reshape(to_levels(pixels), [tf.shape(pixels)[0], -1])
    # One string of code points per image: no op joins the bytes of a row.
    texts = tf.strings.unicode_encode(tf.cast(levels, tf.int32), "UTF-8")
    return tf.strings.to_hash_bucket_fast(texts, _HASHES)


def sampled_bound(model: VaeClassifier, samples: int, images: int) -> SampledBound | None:
    """Returns what the export measures on a split; None if nothing.

    Args:
        model: the model.
        samples: `trainer.importance_samples`.
        images: number of images in the split; 0 if it is unknown.
    """
    if not is_measured(model, samples):
        return None
    share = sample_size(model, samples) / images if images else _SHARE_OF_UNKNOWN
    return SampledBound(samples, min(1.0, share))


def is_measured(model: VaeClassifier, samples: int) -> bool:
    """Tells whether there is a bound to measure."""
    return bool(samples) and model.config.conditioning != "hidden"


def sample_size(model: VaeClassifier, samples: int) -> int:
    """Returns how many images a report measures: 16 to 500, fewer if they are large.

    Args:
        model: the model.
        samples: number k of samples of z per image.
    """
    count = _MOST_DECODED // (samples * model.dimensions * _decodings(model))
    return min(_MOST_IMAGES, max(_FEWEST_IMAGES, count))


def importance_weights(
    model: VaeClassifier, pixels: tf.Tensor, keys: tf.Tensor, *, samples: int
) -> tf.Tensor:
    """Computes the log importance weights of k samples of z for each image.

    If the decoder is conditioned on the class, y is summed out: log of the sum over y of
    p(x|z, y) p(y).

    Args:
        model: a model whose decoder defines a density of the image.
        pixels: float32 [batch, height, width, channels] in [0, 1].
        keys: int64 [batch], seeds of the images' samples.
        samples: k.

    Returns:
        float32 [k, batch], nats.

    Raises:
        ValueError: the decoder is conditioned on the features.
    """
    if model.config.conditioning == "hidden":
        raise ValueError("model.conditioning = hidden has no density, hence no bound")
    encoded = model.encode(pixels)
    at_once = max(1, min(samples, _DECODED_AT_ONCE // model.dimensions))
    parts = -(-samples // at_once)

    def weights_of(place: tf.Tensor) -> tf.Tensor:
        image, part = place // parts, place % parts
        seed = tf.stack([keys[image], tf.cast(part, tf.int64)])
        mean, log_variance = encoded.mean[image], encoded.log_variance[image]
        noise = tf.random.stateless_normal([at_once, model.config.latent_size], seed)
        latent = mean + tf.exp(0.5 * log_variance) * noise
        likelihood = _log_likelihood(model, pixels[image], latent)
        return losses.importance_log_weights(likelihood, latent, mean, log_variance)

    batch = tf.shape(pixels)[0]
    found = tf.map_fn(
        weights_of,
        tf.range(batch * parts),
        # More at a time would multiply the memory.
        parallel_iterations=2,
        fn_output_signature=tf.TensorSpec([at_once], tf.float32),
    )
    return tf.transpose(tf.reshape(found, [batch, parts * at_once])[:, :samples])


def _log_likelihood(model: VaeClassifier, pixels: tf.Tensor, latent: tf.Tensor) -> tf.Tensor:
    """Computes log p(x|z) of one image for each z, float32 [k]."""

    def given(beside: tf.Tensor | None) -> tf.Tensor:
        return model.observation.log_likelihood(pixels, model.decode(latent, beside))

    if model.config.conditioning != "label":
        return given(None)
    count = latent.shape[0]
    each = [
        given(tf.one_hot(tf.fill([count], label), model.num_classes))
        for label in range(model.num_classes)
    ]
    return tf.reduce_logsumexp(tf.stack(each), axis=0) - model.label_cost


def _decodings(model: VaeClassifier) -> int:
    classes = model.num_classes if model.config.conditioning == "label" else 1
    return classes * (_CONVOLUTIONAL_COST if model.config.decoder_kind == "conv" else 1)


def bound_of_images(
    model: VaeClassifier,
    images: np.ndarray,
    *,
    samples: int,
    seed: int = 0,
    binarise: bool = False,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the importance-weighted bound of each image, and the ELBO from the same samples.

    Args:
        model: a model whose decoder defines a density of the image.
        images: uint8 [n, height, width, channels].
        samples: number k of samples of z per image.
        seed: seed of the samples of z and of the binarisation.
        binarise: whether to draw black or white pixels, as in published results on MNIST.
        batch_size: number of images per call.

    Returns:
        The bounds and the ELBOs, float32 [n] each, nats. A bound is at least its ELBO.

    Raises:
        ValueError: the decoder is conditioned on the features.
    """
    keys = [zlib.crc32(image.tobytes()) + (seed << 32) for image in images]
    pixels = images.astype(np.float32) / 255.0
    if binarise:
        draw = np.random.default_rng(seed)
        pixels = (draw.random(pixels.shape, np.float32) < pixels).astype(np.float32)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *model.image_shape], tf.float32),
            tf.TensorSpec([None], tf.int64),
        ],
        autograph=False,
    )
    def measure(part: tf.Tensor, part_keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        weights = importance_weights(model, part, part_keys, samples=samples)
        return losses.importance_bound(weights), tf.reduce_mean(weights, axis=0)

    found = [
        measure(pixels[start : start + batch_size], keys[start : start + batch_size])
        for start in range(0, len(pixels), batch_size)
    ]
    bounds, elbos = zip(*found, strict=True)
    return np.concatenate(bounds), np.concatenate(elbos)


def measure_bound(
    model: VaeClassifier, data: ImageSet, *, samples: int, seed: int
) -> dict[str, Any]:
    """Measures the bound on a random sample of a split.

    Args:
        model: a model whose decoder defines a density of the image.
        data: images that the model has not learned from.
        samples: number k of samples of z per image.
        seed: chooses the images and their samples.

    Returns:
        The fields of `model_card.ImportanceBound` but `split`.
    """
    count = min(len(data), sample_size(model, samples))
    chosen = np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False))
    bounds, elbos = bound_of_images(model, data.images[chosen], samples=samples, seed=seed)
    mean = float(np.mean(bounds, dtype=np.float64))
    return {
        "bound": mean,
        # One image says nothing of the spread.
        "standard_error": float(np.std(bounds, dtype=np.float64, ddof=1) / math.sqrt(count))
        if count > 1
        else None,
        "bits_per_dimension": losses.bits_per_dimension(-mean, model.dimensions),
        "elbo": float(np.mean(elbos, dtype=np.float64)),
        "samples": samples,
        "images": count,
    }


def describe_bound(found: dict[str, Any]) -> str:
    """Formats the result of `measure_bound`, with the name of the split, for people."""
    error = found["standard_error"]
    spread = "" if error is None else f" ± {error:.2f}"
    return (
        f"importance-weighted bound {found['bound']:.2f}{spread} nats, "
        f"{found['bits_per_dimension']:.4f} bits per dimension "
        f"(k = {found['samples']}, {found['images']} images of {found['split']})"
    )
