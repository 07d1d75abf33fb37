"""Defines the terms and bounds of the objective as pure functions of tensors.

`objective.py` (training), `model.py` (`analyse`) and `evaluation.py` call them. Sums are over one
image; all values are in nats per image (float32 [batch, ...]).
"""

import math

import tensorflow as tf

from trainer.model import distributions


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor, *, free_bits: float = 0.0) -> tf.Tensor:
    """Computes KL(q(z|x) || N(0, I)) of each image.

    Args:
        mean: float32 [..., d].
        log_variance: float32 [..., d].
        free_bits: minimum cost of each dimension in nats, below which it has no gradient
            (Kingma et al. 2016, grouped by image instead of by minibatch, so that replicas need
            not communicate).

    Returns:
        float32 [...], nats.
    """
    per_dimension = distributions.normal_kl(mean, log_variance)
    if free_bits:
        per_dimension = tf.maximum(per_dimension, free_bits)
    return tf.reduce_sum(per_dimension, axis=-1)


def posterior_entropy(log_variance: tf.Tensor) -> tf.Tensor:
    """Computes the entropy H[q(z|x)] of each image: float32 [...], nats."""
    return tf.reduce_sum(distributions.normal_entropy(log_variance), axis=-1)


def importance_log_weights(
    log_likelihood: tf.Tensor, latent: tf.Tensor, mean: tf.Tensor, log_variance: tf.Tensor
) -> tf.Tensor:
    """Computes log p(x|z) + log p(z) - log q(z|x) for samples z drawn from q(z|x).

    Args:
        log_likelihood: float32 [k, batch], nats.
        latent: float32 [k, batch, d].
        mean: float32 [batch, d].
        log_variance: float32 [batch, d].

    Returns:
        float32 [k, batch], nats.
    """
    zeros = tf.zeros_like(latent)
    prior = distributions.normal_log_density(latent, zeros, zeros)
    posterior = distributions.normal_log_density(latent, mean, log_variance)
    return log_likelihood + tf.reduce_sum(prior - posterior, axis=-1)


def importance_bound(log_weights: tf.Tensor) -> tf.Tensor:
    """Computes the log of the mean weight over k samples (Burda et al. 2016, eq. 8).

    The result is float32 [batch], nats. With k = 1 it is the single-sample ELBO; its expectation
    increases with k.
    """
    samples = tf.cast(tf.shape(log_weights)[0], log_weights.dtype)
    return tf.reduce_logsumexp(log_weights, axis=0) - tf.math.log(samples)


def cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, *, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Computes -log p(y|x) of each image, 0 if the label is missing.

    Args:
        labels: int32 [batch]; -1 marks a missing label.
        logits: float32 [batch, K].
        label_smoothing: share of the target that is spread evenly over all classes.

    Returns:
        float32 [batch], nats.
    """
    log_probabilities = tf.nn.log_softmax(logits)
    present = tf.cast(labels >= 0, tf.float32)
    taken = tf.gather(log_probabilities, tf.maximum(labels, 0), axis=-1, batch_dims=1)
    value = -(1.0 - label_smoothing) * taken
    if label_smoothing:
        value -= label_smoothing * tf.reduce_mean(log_probabilities, axis=-1)
    return present * value


def soft_cross_entropy(probabilities: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes -sum_y q(y) log p(y|x) of each image for given q, float32 [batch, K], in nats."""
    return -tf.reduce_sum(probabilities * tf.nn.log_softmax(logits), axis=-1)


def categorical_entropy(logits: tf.Tensor) -> tf.Tensor:
    """Computes the entropy H[softmax(logits)]: float32 [...], nats."""
    log_probabilities = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.exp(log_probabilities) * log_probabilities, axis=-1)


def joint_classes(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Computes the joint distribution of the classes predicted for two views of the same images.

    Args:
        first: float32 [batch, K], probabilities.
        second: float32 [batch, K], probabilities.

    Returns:
        float32 [K, K], symmetric, sums to 1.
    """
    joint = tf.matmul(first, second, transpose_a=True) / first.shape[0]
    return 0.5 * (joint + tf.transpose(joint))


def mutual_information(joint: tf.Tensor) -> tf.Tensor:
    """Computes the mutual information of a joint distribution [K, K] (Ji et al. 2019, eq. 3).

    It is high when the two views agree and the classes are used evenly.

    Returns:
        float32 scalar, nats, between 0 and log K.
    """
    joint = tf.maximum(joint, 1e-12)
    rows = tf.reduce_sum(joint, axis=1, keepdims=True)
    columns = tf.reduce_sum(joint, axis=0, keepdims=True)
    return tf.reduce_sum(joint * (tf.math.log(joint) - tf.math.log(rows) - tf.math.log(columns)))


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Converts nats per image to bits per pixel value."""
    return nats / (dimensions * math.log(2.0))
