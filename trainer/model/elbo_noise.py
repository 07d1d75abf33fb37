"""Draws the noise of `analyse`'s ELBO for each image from the image's own pixels.

`vae_classifier.py` calls it. Noise of one image must not depend on the others of its batch, and
noise that all images share would give the mean over a data set an error that no number of images
averages out.
"""

from typing import Final

import numpy as np
import tensorflow as tf

from trainer.data.pixels import to_levels

_SEED: Final = 20140501
"""Seed of the hash functions; a constant, so that equal weights give equal scores."""
_PRIME: Final = (1 << 31) - 1
"""Modulus of the hashes: a product of two residues, and the sum over 2^23 pixel values, fit into
int64."""


def antithetic_noise(pixels: tf.Tensor, samples: int, size: int) -> tf.Tensor:
    """Computes the noise vectors of each image: zeros, then antithetic pairs.

    The directions are uniform. The lengths are not drawn, which would give the ELBO of an image
    most of its variance: a single pair has the mean square length d of normal vectors, and of two
    pairs one is longer and one shorter, so that the mean fourth power is right as well.

    Args:
        pixels: float32 [batch, height, width, channels] in [0, 1].
        samples: number of vectors beside the zeros, 1 or even.
        size: size d of a vector.

    Returns:
        float32 [1 + samples, batch, d].
    """
    pairs = (samples + 1) // 2
    normal = tf.cast(tf.math.ndtri(_phases(pixels, pairs, size)), tf.float32)
    drawn = tf.math.l2_normalize(normal, axis=-1) * _lengths(pairs, size)
    vectors = tf.reshape(tf.stack([drawn, -drawn], axis=1), [2 * pairs, -1, size])
    return tf.concat([tf.zeros_like(vectors[:1]), vectors[:samples]], axis=0)


def _lengths(pairs: int, size: int) -> np.ndarray:
    """Returns float32 [pairs, 1, 1], by turns the square roots of d + sqrt(2 d) and d - sqrt(2 d).

    The squared length of a normal vector has mean d and variance 2 d.
    """
    sides = np.resize([1.0, -1.0], pairs)
    if pairs % 2:
        sides[-1] = 0.0
    squares = size + sides * min(np.sqrt(2.0 * size), size)
    return np.sqrt(squares)[:, np.newaxis, np.newaxis].astype(np.float32)


def _phases(pixels: tf.Tensor, pairs: int, size: int) -> tf.Tensor:
    """Hashes each image to numbers in (0, 1): float64 [pairs, batch, size].

    The hashes are linear in the levels, with random coefficients, modulo a prime (Carter and
    Wegman 1979): whole numbers, hence the same on every processor.
    """
    draw = np.random.default_rng(_SEED)
    multipliers = draw.integers(1, _PRIME, (pairs, 1, size))
    levels = tf.cast(tf.reshape(to_levels(pixels), [-1, int(np.prod(pixels.shape[1:]))]), tf.int64)
    coefficients = draw.integers(1, _PRIME, levels.shape[1])
    # Plus 1, because zeros would give a black image the noise 0.
    keys = tf.math.floormod(tf.reduce_sum((levels + 1) * coefficients, axis=-1), _PRIME)
    residues = tf.math.floormod(keys[:, tf.newaxis] * multipliers, _PRIME)
    return (tf.cast(residues, tf.float64) + 0.5) / _PRIME
