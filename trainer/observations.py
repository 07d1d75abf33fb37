"""Observation models: how the decoder's raw output becomes p(x|.).

One class per model, chosen by `observation_model`; the decoder, the objective and analyse() use
them. Raw outputs are float32 [..., height, width, channels * parameters].
"""

import math
from typing import ClassVar, Protocol

import tensorflow as tf

from trainer import distributions


class ObservationModel(Protocol):
    """Distribution of an image given the decoder's raw output."""

    parameters: ClassVar[int]
    """Raw values per pixel value."""

    def log_likelihood(self, pixels: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """Log p(pixels | raw), summed over an image: float32 [...], nats."""

    def mean(self, raw: tf.Tensor) -> tf.Tensor:
        """Expected pixels: float32 [..., height, width, channels] in [0, 1]."""

    def sample(self, raw: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Pixels drawn with `uniform`, float32 noise in (0, 1) of the pixels' shape."""


def _sum_image(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values, axis=(-3, -2, -1))


class Bernoulli:
    """Pixels are probabilities of white; raw values are logits."""

    parameters: ClassVar[int] = 1

    def log_likelihood(self, pixels: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """Expected log-probability of the binarised image."""
        return _sum_image(distributions.bernoulli_log_probability(pixels, raw))

    def mean(self, raw: tf.Tensor) -> tf.Tensor:
        """Probability of white."""
        return tf.sigmoid(raw)

    def sample(self, raw: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Black or white pixels."""
        return tf.cast(uniform < tf.sigmoid(raw), tf.float32)


class Gaussian:
    """Normal density per pixel value, mean and variance from the decoder.

    Args:
        min_scale: least standard deviation in units of the pixel range; without it the density
            of a constant pixel has no upper bound.
    """

    parameters: ClassVar[int] = 2

    def __init__(self, min_scale: float) -> None:
        self._low = 2.0 * math.log(min_scale)

    def _moments(self, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, log_variance = tf.split(raw, 2, axis=-1)
        # softplus bounds the variance from below and keeps a gradient at the bound; the offset
        # starts the standard deviation at about ten times the least one.
        return mean + 0.5, self._low + tf.nn.softplus(log_variance + 4.6)

    def log_likelihood(self, pixels: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """Log density; may be positive."""
        return _sum_image(distributions.normal_log_density(pixels, *self._moments(raw)))

    def mean(self, raw: tf.Tensor) -> tf.Tensor:
        """The mean, clipped to the pixel range."""
        return tf.clip_by_value(self._moments(raw)[0], 0.0, 1.0)

    def sample(self, raw: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws by the inverse of the distribution function, clipped to the pixel range."""
        mean, log_variance = self._moments(raw)
        normal = tf.math.ndtri(tf.clip_by_value(uniform, 1e-6, 1.0 - 1e-6))
        return tf.clip_by_value(mean + tf.exp(0.5 * log_variance) * normal, 0.0, 1.0)


class DiscretizedLogistic:
    """A logistic distribution over the 256 levels of a pixel value (Salimans et al. 2017)."""

    parameters: ClassVar[int] = 2

    def _moments(self, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, log_scale = tf.split(raw, 2, axis=-1)
        # Between a twentieth of a level and five times the pixel range; starts at about a tenth.
        return mean + 0.5, tf.clip_by_value(log_scale - 2.3, -8.5, 1.6)

    def log_likelihood(self, pixels: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """Log-probability of the 8-bit image."""
        return _sum_image(
            distributions.discretized_logistic_log_probability(pixels, *self._moments(raw))
        )

    def mean(self, raw: tf.Tensor) -> tf.Tensor:
        """The location, clipped to the pixel range."""
        return tf.clip_by_value(self._moments(raw)[0], 0.0, 1.0)

    def sample(self, raw: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws by the inverse of the distribution function, rounded to the 8-bit grid."""
        mean, log_scale = self._moments(raw)
        uniform = tf.clip_by_value(uniform, 1e-6, 1.0 - 1e-6)
        value = mean + tf.exp(log_scale) * (tf.math.log(uniform) - tf.math.log1p(-uniform))
        return tf.round(tf.clip_by_value(value, 0.0, 1.0) * 255.0) / 255.0


def observation_model(name: str, *, min_scale: float) -> ObservationModel:
    """The observation model that the configuration names."""
    if name == "bernoulli":
        return Bernoulli()
    if name == "gaussian":
        return Gaussian(min_scale)
    return DiscretizedLogistic()
