"""Defines the observation models, which turn the decoder's raw output into p(x|.).

`observation_model` selects one; the decoder, the objective and `analyse` use it. Raw outputs are
float32 [..., height, width, channels * parameters].
"""

import math
from typing import ClassVar, Protocol

import tensorflow as tf

from trainer.model import distributions


class ObservationModel(Protocol):
    """The distribution of an image given the decoder's raw output."""

    parameters: ClassVar[int]
    """Number of raw values per pixel value."""

    def log_likelihood(self, pixels: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """Computes log p(pixels | raw), summed over each image: float32 [...], nats."""

    def mean(self, raw: tf.Tensor) -> tf.Tensor:
        """Computes the expected pixels: float32 [..., height, width, channels] in [0, 1]."""

    def sample(self, raw: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws pixels from `uniform`, float32 noise in (0, 1) of the shape of the pixels."""


def _sum_image(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values, axis=(-3, -2, -1))


class Bernoulli:
    """Bernoulli model: pixels are probabilities of white, raw values are logits."""

    parameters: ClassVar[int] = 1

    def log_likelihood(self, pixels: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """Computes the expected log-probability of the binarised image."""
        return _sum_image(distributions.bernoulli_log_probability(pixels, raw))

    def mean(self, raw: tf.Tensor) -> tf.Tensor:
        """Computes the probability of white."""
        return tf.sigmoid(raw)

    def sample(self, raw: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws black or white pixels."""
        return tf.cast(uniform < tf.sigmoid(raw), tf.float32)


class Gaussian:
    """Normal density for each pixel value, with mean and variance from the decoder.

    Args:
        min_scale: smallest standard deviation in units of the pixel range; without it, the
            density of a constant pixel is unbounded.
    """

    parameters: ClassVar[int] = 2

    def __init__(self, min_scale: float) -> None:
        self._low = 2.0 * math.log(min_scale)

    def _moments(self, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, log_variance = tf.split(raw, 2, axis=-1)
        # softplus bounds the variance from below and keeps a gradient at the bound. The offset
        # starts the standard deviation at about ten times the smallest one.
        return mean + 0.5, self._low + tf.nn.softplus(log_variance + 4.6)

    def log_likelihood(self, pixels: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """Computes the log density, which may be positive."""
        return _sum_image(distributions.normal_log_density(pixels, *self._moments(raw)))

    def mean(self, raw: tf.Tensor) -> tf.Tensor:
        """Returns the mean, clipped to the pixel range."""
        return tf.clip_by_value(self._moments(raw)[0], 0.0, 1.0)

    def sample(self, raw: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws by inverse transform sampling, clipped to the pixel range."""
        mean, log_variance = self._moments(raw)
        normal = tf.math.ndtri(tf.clip_by_value(uniform, 1e-6, 1.0 - 1e-6))
        return tf.clip_by_value(mean + tf.exp(0.5 * log_variance) * normal, 0.0, 1.0)


class DiscretizedLogistic:
    """Logistic distribution over the 256 levels of a pixel value (Salimans et al. 2017)."""

    parameters: ClassVar[int] = 2

    def _moments(self, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, log_scale = tf.split(raw, 2, axis=-1)
        # The scale is between a twentieth of a level and five times the pixel range, and starts at
        # about a tenth of the pixel range.
        return mean + 0.5, tf.clip_by_value(log_scale - 2.3, -8.5, 1.6)

    def log_likelihood(self, pixels: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """Computes the log-probability of the 8-bit image."""
        return _sum_image(
            distributions.discretized_logistic_log_probability(pixels, *self._moments(raw))
        )

    def mean(self, raw: tf.Tensor) -> tf.Tensor:
        """Returns the location, clipped to the pixel range."""
        return tf.clip_by_value(self._moments(raw)[0], 0.0, 1.0)

    def sample(self, raw: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws by inverse transform sampling, rounded to the 8-bit grid."""
        mean, log_scale = self._moments(raw)
        uniform = tf.clip_by_value(uniform, 1e-6, 1.0 - 1e-6)
        value = mean + tf.exp(log_scale) * (tf.math.log(uniform) - tf.math.log1p(-uniform))
        return tf.round(tf.clip_by_value(value, 0.0, 1.0) * 255.0) / 255.0


def observation_model(name: str, *, min_scale: float) -> ObservationModel:
    """Builds the configured observation model."""
    if name == "bernoulli":
        return Bernoulli()
    if name == "gaussian":
        return Gaussian(min_scale)
    return DiscretizedLogistic()
