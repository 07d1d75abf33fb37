"""Computes densities, KL divergence and entropy of the model's distributions as pure functions.

`losses.py`, `observations.py` and the evaluation call them. Everything is float32 and elementwise:
the caller sums over the dimensions of one image. Results are in nats.
"""

import math

import tensorflow as tf

_LOG_2_PI = math.log(2.0 * math.pi)
_LEVELS = 256
"""Number of levels of 8-bit images, whose pixel values are k / 255."""


def normal_log_density(value: tf.Tensor, mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Computes the log density of N(mean, exp(log_variance)) at `value`, elementwise."""
    return -0.5 * (_LOG_2_PI + log_variance + tf.square(value - mean) * tf.exp(-log_variance))


def normal_kl(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Computes KL(N(mean, exp(log_variance)) || N(0, 1)) elementwise.

    See Kingma & Welling 2014, app. B.
    """
    return 0.5 * (tf.square(mean) + tf.exp(log_variance) - 1.0 - log_variance)


def normal_entropy(log_variance: tf.Tensor) -> tf.Tensor:
    """Computes the differential entropy of a normal distribution, elementwise."""
    return 0.5 * (_LOG_2_PI + 1.0 + log_variance)


def bernoulli_log_probability(value: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes value * log p + (1 - value) * log (1 - p) for p = sigmoid(logits).

    For a grey `value` in [0, 1], this is the expected log-probability of a pixel that is white with
    that probability and black otherwise, hence a lower bound on the log-probability of binarised
    images.
    """
    return value * logits - tf.nn.softplus(logits)


def discretized_logistic_log_probability(
    value: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor
) -> tf.Tensor:
    """Computes the log-probability of the 8-bit level `value` (Salimans et al. 2017, eq. 2).

    It is the mass of the logistic distribution between the neighbouring half levels, elementwise;
    the first and the last level include the tails. For bin edges a > b in units of the scale, the
    mass is sigmoid(a) * sigmoid(-b) * (1 - exp(b - a)), a form without cancellation in the tails.

    Args:
        value: float32, on the grid k / 255.
        mean: float32, in units of the pixel range.
        log_scale: float32, log of the scale in units of the pixel range.
    """
    inverse_scale = tf.exp(-log_scale)
    half_level = 0.5 / (_LEVELS - 1)
    upper = (value - mean + half_level) * inverse_scale
    lower = (value - mean - half_level) * inverse_scale
    log_below_upper = tf.math.log_sigmoid(upper)
    log_above_lower = tf.math.log_sigmoid(-lower)
    # In a bin far narrower than the scale, 1 - exp(-width) must not round to 0.
    log_width = tf.math.log(-tf.math.expm1(-2.0 * half_level * inverse_scale))
    inside = log_below_upper + log_above_lower + log_width
    return tf.where(
        value < half_level,
        log_below_upper,
        tf.where(value > 1.0 - half_level, log_above_lower, inside),
    )
