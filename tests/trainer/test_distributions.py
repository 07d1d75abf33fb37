"""Densities, divergences and bounds against closed forms and Monte Carlo."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trainer.model import distributions
from trainer.model.observations import Bernoulli, DiscretizedLogistic, Gaussian, observation_model
from trainer.optimization import losses


def test_normal_density_matches_scipy() -> None:
    value, mean, log_variance = (tf.constant([0.3, -2.0]), tf.constant([0.0, 1.0]), [-1.0, 2.0])
    density = distributions.normal_log_density(value, mean, tf.constant(log_variance))
    expected = stats.norm.logpdf(value, mean, np.exp(0.5 * np.array(log_variance)))
    np.testing.assert_allclose(density, expected, rtol=1e-5)


def test_kl_and_entropy_match_monte_carlo() -> None:
    mean, log_variance = np.array([0.7, -1.5], np.float32), np.array([-1.2, 0.8], np.float32)
    draw = np.random.default_rng(0)
    samples = mean + np.exp(0.5 * log_variance) * draw.normal(size=(400_000, 2))
    log_q = stats.norm.logpdf(samples, mean, np.exp(0.5 * log_variance)).sum(axis=1)
    log_p = stats.norm.logpdf(samples).sum(axis=1)
    kl = losses.kl_divergence(tf.constant(mean), tf.constant(log_variance))
    error = 4 * np.std(log_q - log_p) / np.sqrt(len(samples))
    assert abs(float(kl) - np.mean(log_q - log_p)) < error
    entropy = losses.posterior_entropy(tf.constant(log_variance))
    assert abs(float(entropy) + np.mean(log_q)) < 4 * np.std(log_q) / np.sqrt(len(samples))


def test_kl_of_the_prior_is_zero_and_free_bits_are_free() -> None:
    zeros = tf.zeros([3, 5])
    np.testing.assert_array_equal(losses.kl_divergence(zeros, zeros), np.zeros(3))
    mean = tf.Variable(tf.fill([1, 5], 0.1))
    with tf.GradientTape() as tape:
        charged = losses.kl_divergence(mean, tf.zeros([1, 5]), free_bits=0.25)
    assert float(charged[0]) == pytest.approx(1.25)
    np.testing.assert_array_equal(tape.gradient(charged, mean), np.zeros((1, 5)))


@settings(max_examples=40, deadline=None)
@given(mean=st.floats(-0.5, 1.5), log_scale=st.floats(-8.5, 1.6))
def test_discretized_logistic_sums_to_one(mean: float, log_scale: float) -> None:
    levels = tf.constant(np.arange(256, dtype=np.float32) / 255.0)
    log_mass = distributions.discretized_logistic_log_probability(
        levels, tf.fill([256], mean), tf.fill([256], log_scale)
    )
    assert np.isfinite(log_mass).all()
    assert float(tf.reduce_sum(tf.exp(tf.cast(log_mass, tf.float64)))) == pytest.approx(1, abs=2e-3)


def test_discretized_logistic_has_a_gradient_far_from_the_mean() -> None:
    mean = tf.Variable([0.0])
    with tf.GradientTape() as tape:
        value = distributions.discretized_logistic_log_probability(
            tf.constant([200 / 255]), mean, tf.constant([-5.0])
        )
    gradient = tape.gradient(value, mean)
    assert float(gradient[0]) == pytest.approx(np.exp(5.0), rel=1e-3)


def test_bernoulli_sums_to_one() -> None:
    logits = tf.constant([-30.0, -2.0, 0.0, 3.0])
    black = distributions.bernoulli_log_probability(tf.zeros(4), logits)
    white = distributions.bernoulli_log_probability(tf.ones(4), logits)
    np.testing.assert_allclose(tf.exp(black) + tf.exp(white), np.ones(4), rtol=1e-6)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "discretized_logistic"])
def test_observation_models_prefer_their_mean_and_sample_around_it(name: str) -> None:
    model = observation_model(name, min_scale=0.02)
    shape = [64, 6, 6, 2 * model.parameters]
    raw = tf.random.stateless_normal([1, *shape[1:]], [1, 2])
    raw = tf.tile(raw, [64, 1, 1, 1])
    uniform = tf.random.stateless_uniform([64, 6, 6, 2], [3, 4])
    sampled = model.sample(raw, uniform)
    assert float(tf.reduce_min(sampled)) >= 0
    assert float(tf.reduce_max(sampled)) <= 1
    own = tf.reduce_mean(model.log_likelihood(sampled, raw))
    other = tf.reduce_mean(model.log_likelihood(1.0 - sampled, raw))
    assert float(own) > float(other)
    assert model.mean(raw).shape == sampled.shape


def test_observation_models_by_name() -> None:
    kinds = {"bernoulli": Bernoulli, "gaussian": Gaussian}
    for name, kind in {**kinds, "discretized_logistic": DiscretizedLogistic}.items():
        assert isinstance(observation_model(name, min_scale=0.1), kind)


def test_gaussian_density_is_bounded_by_the_least_scale() -> None:
    model = Gaussian(0.02)
    raw = tf.constant(np.array([0.0, -100.0], np.float32).reshape(1, 1, 1, 2))
    density = model.log_likelihood(tf.fill([1, 1, 1, 1], 0.5), raw)
    assert float(density[0]) == pytest.approx(stats.norm.logpdf(0, scale=0.02), rel=1e-4)


def test_importance_bound_of_one_sample_is_the_elbo_and_rises_with_more() -> None:
    # A linear Gaussian model: p(z) = N(0, 1), p(x|z) = N(z, 1), so log p(x) = log N(x; 0, 2).
    x, mean, log_variance = 1.3, tf.fill([1, 1], 0.2), tf.fill([1, 1], -0.5)
    repeats = 20_000

    def bound(samples: int) -> np.ndarray:
        noise = tf.random.stateless_normal([samples, repeats, 1], [samples, 7])
        latent = mean + tf.exp(0.5 * log_variance) * noise
        likelihood = distributions.normal_log_density(tf.constant(x), latent, tf.zeros([]))[..., 0]
        weights = losses.importance_log_weights(likelihood, latent, mean, log_variance)
        return losses.importance_bound(weights).numpy()

    elbo = -0.5 * (np.log(2 * np.pi) + (x - 0.2) ** 2 + np.exp(-0.5)) - float(
        losses.kl_divergence(mean, log_variance)[0]
    )
    bounds = {samples: bound(samples) for samples in (1, 5, 50)}
    assert bounds[1].mean() == pytest.approx(elbo, abs=4 * bounds[1].std() / np.sqrt(repeats))
    assert bounds[1].mean() < bounds[5].mean() < bounds[50].mean()
    assert bounds[50].mean() == pytest.approx(stats.norm.logpdf(x, scale=np.sqrt(2)), abs=0.01)


def test_cross_entropy_skips_images_without_label() -> None:
    logits = tf.constant([[2.0, 0.0], [0.0, 1.0]])
    values = losses.cross_entropy(tf.constant([0, -1]), logits)
    np.testing.assert_allclose(values, [np.log1p(np.exp(-2.0)), 0.0], rtol=1e-6)
    smooth = losses.cross_entropy(tf.constant([0, 1]), logits, label_smoothing=0.2)
    log_p = tf.nn.log_softmax(logits).numpy()
    expected = [
        -0.8 * log_p[0, 0] - 0.2 * log_p[0].mean(),
        -0.8 * log_p[1, 1] - 0.2 * log_p[1].mean(),
    ]
    np.testing.assert_allclose(smooth, expected, rtol=1e-6)


def test_mutual_information_is_zero_for_independent_and_log_k_for_equal_views() -> None:
    uniform = tf.fill([8, 4], 0.25)
    assert float(losses.mutual_information(losses.joint_classes(uniform, uniform))) == (
        pytest.approx(0.0, abs=1e-6)
    )
    equal = tf.one_hot([0, 1, 2, 3], 4)
    assert float(losses.mutual_information(losses.joint_classes(equal, equal))) == (
        pytest.approx(np.log(4), abs=1e-5)
    )
