"""The model's identities: shapes, determinism, gradients, saving, label sums."""

import itertools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer import tiny
from tests.trainer.tiny import build
from trainer.model.encoders import Encoded, grid_sides
from trainer.optimization import losses
from trainer.optimization.arithmetic import hidden_bfloat16_units
from trainer.optimization.noise import Noise
from trainer.optimization.objective import PARTS, Batch, Objective, ScheduledWeights
from trainer.options import ObjectiveConfig, SemiSupervisedConfig
from trainer.quality.importance import bound_of_images

SCHEDULE = ScheduledWeights(beta=tf.constant(1.0), consistency=tf.constant(1.0))


def pixels(count: int = 6, shape: tuple[int, int, int] = tiny.SHAPE) -> np.ndarray:
    images = tiny.image_set(count, shape=shape).images
    return images.astype(np.float32) / 255.0


VARIANTS = list(
    itertools.product(
        ("mlp", "conv"),
        ("latent", "hidden", "label"),
        ("bernoulli", "gaussian", "discretized_logistic"),
    )
)


@pytest.mark.parametrize(("encoder", "conditioning", "observation"), VARIANTS)
def test_gradients_reach_every_weight(encoder: str, conditioning: str, observation: str) -> None:
    config = tiny.model_config(
        encoder=encoder, conditioning=conditioning, observation=observation, dropout=0.1
    )
    model = build(config)
    objective = Objective(model, ObjectiveConfig(), SemiSupervisedConfig())
    batch = Batch(clean=tf.constant(pixels()), labels=tf.constant([0, 1, 2, 0, 1, 2]))
    # At the start the decoder's output is grey whatever z: move its last layer.
    for weight in model.trainable_weights:
        weight.assign_add(0.02 * tf.random.stateless_normal(weight.shape, [1, 2]))
    with tf.GradientTape() as tape:
        loss, parts = objective(batch, Noise(1, 0), SCHEDULE)
    gradients = tape.gradient(loss, [w.value for w in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 0, weight.path
    values = dict(zip(PARTS, parts.numpy(), strict=True))
    expected = -values["elbo"] / np.prod(tiny.SHAPE) + values["cross_entropy"]
    assert values["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("shape", "encoder"),
    [((28, 28, 1), "mlp"), ((17, 30, 3), "conv"), ((64, 64, 3), "conv"), ((128, 128, 3), "conv")],
)
def test_any_image_size(shape: tuple[int, int, int], encoder: str) -> None:
    model = build(tiny.model_config(encoder=encoder), shape=shape, classes=7)
    results = model.analyse(pixels(2, shape))
    assert results["reconstruction"].shape == (2, *shape)
    alone = model.reconstruct(pixels(2, shape))
    np.testing.assert_allclose(alone, results["reconstruction"], atol=1e-5)
    assert results["probabilities"].shape == (2, 7)
    assert results["embedding"].shape == (2, 4)
    np.testing.assert_allclose(tf.reduce_sum(results["probabilities"], -1), [1, 1], rtol=1e-5)


def test_grids_end_at_four_places() -> None:
    assert grid_sides(28, 28) == [(14, 14), (7, 7), (4, 4)]
    assert grid_sides(8, 20) == [(4, 10), (2, 5), (1, 3)]


@pytest.mark.parametrize("encoder", ["mlp", "conv"])
def test_analyse_is_deterministic_and_rows_are_independent(encoder: str) -> None:
    model = build(tiny.model_config(encoder=encoder, dropout=0.5))
    images = pixels(5)
    together = model.analyse(images)
    again = model.analyse(images)
    alone = [model.analyse(images[i : i + 1]) for i in range(5)]
    for name, values in together.items():
        np.testing.assert_array_equal(values, again[name])
        rows = np.concatenate([part[name] for part in alone])
        np.testing.assert_allclose(rows, values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_elbo_of_analyse_is_near_the_sampled_one() -> None:
    model = build(tiny.model_config(elbo_samples=64))
    images = pixels(4)
    encoded = model.encode(images)
    noise = tf.random.stateless_normal([4000, 1, 4], [5, 6])
    latent = tf.reshape(encoded.latent(noise), [-1, 4])
    raw = model.decode(latent)
    likelihood = model.observation.log_likelihood(np.tile(images, (4000, 1, 1, 1)), raw)
    likelihood = tf.reduce_mean(tf.reshape(likelihood, [4000, 4]), 0)
    sampled = likelihood - losses.kl_divergence(encoded.mean, encoded.log_variance)
    np.testing.assert_allclose(model.analyse(images)["elbo"], sampled, rtol=2e-3)


@pytest.mark.parametrize("decoder", ["mlp", "conv"])
def test_a_decoder_of_lower_resolution_still_describes_every_pixel(decoder: str) -> None:
    config = tiny.model_config(
        encoder="conv", decoder=decoder, decoder_scale=4, observation="discretized_logistic"
    )
    model, whole = build(config), build(config.model_copy(update={"decoder_scale": 1}))
    assert model.decoder.count_params() < whole.decoder.count_params()
    for weight in model.trainable_weights:
        weight.assign_add(0.05 * tf.random.stateless_normal(weight.shape, [4, 2]))
    images = tf.cast(tiny.image_set(4).images, tf.float32) / 255.0
    raw = model.decode(model.encode(images).mean)
    assert raw.shape == (4, *tiny.SHAPE[:2], 2 * tiny.SHAPE[2])
    # Interpolated: neighbours differ by less than rows that the decoder computes.
    steps = tf.abs(raw[:, 1:] - raw[:, :-1])
    assert float(tf.reduce_mean(steps)) < float(tf.reduce_mean(tf.abs(raw[:, 4:] - raw[:, :-4])))
    analysis = model.analyse(images)
    assert analysis["reconstruction"].shape == images.shape
    assert np.isfinite(analysis["elbo"]).all()
    encoded = model.encode(images)
    expected = model.observation.log_likelihood(images, model.decode(encoded.mean))
    assert expected.shape == (4,)


def test_loss_is_the_formula_of_the_documentation() -> None:
    model = build()
    for weight in model.trainable_weights:
        weight.assign_add(0.05 * tf.random.stateless_normal(weight.shape, [4, 2]))
    config = ObjectiveConfig(
        free_bits=0.02, entropy_weight=0.3, generative_weight=0.7, alpha=1.5, label_smoothing=0.1
    )
    images, labels = tf.constant(pixels(6)), tf.constant([0, 1, 2, 0, -1, 1])
    schedule = ScheduledWeights(beta=tf.constant(0.4), consistency=tf.constant(1.0))
    objective = Objective(model, config, SemiSupervisedConfig())
    loss, _ = objective(Batch(clean=images, labels=labels), Noise(1, 0), schedule)

    encoded = model.encode(images)
    latent = encoded.latent(Noise(1, 0).normal("latent/labelled", [1, 6, 4], axis=1)[0])
    likelihood = model.observation.log_likelihood(images, model.decode(latent)).numpy()
    mean, variance = encoded.mean.numpy(), np.exp(encoded.log_variance.numpy())
    per_dimension = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    assert (per_dimension < 0.02).any()
    assert (per_dimension > 0.02).any()
    entropy = 0.5 * np.log(2 * np.pi * np.e * variance).sum(-1)
    j = likelihood - 0.4 * np.maximum(per_dimension, 0.02).sum(-1) + 0.3 * entropy
    log_p = tf.nn.log_softmax(model.classify(encoded)).numpy()
    target = 0.9 * np.eye(3)[np.maximum(labels, 0)] + 0.1 / 3
    cross_entropy = -(target * log_p).sum(-1) * (labels.numpy() >= 0)
    expected = (0.7 * -j / np.prod(tiny.SHAPE) + 1.5 * cross_entropy).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("is_augmented", [False, True])
@pytest.mark.parametrize("conditioning", ["latent", "label"])
def test_the_bound_of_every_second_image(
    conditioning: str, is_augmented: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny.model_config(conditioning=conditioning))
    for weight in model.trainable_weights:
        weight.assign_add(0.05 * tf.random.stateless_normal(weight.shape, [4, 2]))
    images, labels = tf.constant(pixels(8)), tf.constant([0, 1, 2, 0, 1, 2, 0, 1])
    changed = tf.reverse(images, [2]) if is_augmented else None
    encoded_images: list[int] = []
    encode = model.encode

    def counting(batch: tf.Tensor, *, training: bool = False) -> Encoded:
        encoded_images.append(len(batch))
        return encode(batch, training=training)

    def values_of(batch: Batch, every: int) -> dict[str, float]:
        config = ObjectiveConfig(elbo_every=every, clean_share=0.25)
        objective = Objective(model, config, SemiSupervisedConfig())
        _, parts = objective(batch, Noise(1, 0), SCHEDULE)
        return dict(zip(PARTS, parts.numpy().tolist(), strict=True))

    monkeypatch.setattr(model, "encode", counting)
    found = values_of(Batch(images, labels, changed), 2)
    assert encoded_images == [12 if is_augmented else 8]
    alone = values_of(Batch(images[::2], labels[::2]), 1)
    for name in ("elbo", "kl", "reconstruction"):
        assert found[name] == pytest.approx(alone[name], rel=1e-5)
    whole = values_of(Batch(images, labels), 1)["cross_entropy"]
    expected = whole
    if changed is not None:
        other = values_of(Batch(changed, labels), 1)["cross_entropy"]
        expected = 0.25 * alone["cross_entropy"] + 0.75 * other
    assert found["cross_entropy"] == pytest.approx(expected, rel=1e-5)
    assert found["loss"] == pytest.approx(
        found["cross_entropy"] - found["elbo"] / np.prod(tiny.SHAPE), rel=1e-5
    )


def test_unlabelled_images_sum_the_class_out() -> None:
    model = build(tiny.model_config(conditioning="label"))
    for weight in model.trainable_weights:
        weight.assign_add(0.05 * tf.random.stateless_normal(weight.shape, [4, 2]))
    images = tf.constant(pixels(4))
    objective = Objective(model, ObjectiveConfig(), SemiSupervisedConfig(enabled=True))
    batch = Batch(clean=images, labels=tf.constant([0, 1, 2, 0]), unlabelled=images)
    _, parts = objective(batch, Noise(1, 0), SCHEDULE)
    encoded = model.encode(images)
    latent = encoded.latent(Noise(1, 0).normal("latent/unlabelled", [1, 4, 4], axis=1)[0])
    posterior = tf.nn.softmax(model.classify(encoded)).numpy()
    kl = losses.kl_divergence(encoded.mean, encoded.log_variance).numpy()
    expected = np.zeros(4)
    for k in range(3):
        raw = model.decode(latent, tf.one_hot([k] * 4, 3))
        joint = model.observation.log_likelihood(images, raw).numpy() - kl - np.log(3)
        expected += posterior[:, k] * (joint - np.log(posterior[:, k]))
    value = dict(zip(PARTS, parts.numpy(), strict=True))["unlabelled_elbo"]
    assert value == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize("encoder", ["mlp", "conv"])
def test_saved_model_is_equal(encoder: str, tmp_path: pathlib.Path) -> None:
    config = tiny.model_config(encoder=encoder, conditioning="label", observation="gaussian")
    model = build(config, outlier_score="neighbours")
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.get_config() == model.get_config()
    images = pixels(3)
    for name, values in model.analyse(images).items():
        np.testing.assert_array_equal(loaded.analyse(images)[name], values, err_msg=name)


def test_generation() -> None:
    latent = tf.zeros([3, 4])
    assert build().decode_latent(latent).shape == (3, *tiny.SHAPE)
    by_class = build(tiny.model_config(conditioning="label"))
    images = by_class.decode_latent(latent, tf.constant([0, 1, 2]))
    assert float(tf.reduce_min(images)) >= 0
    assert float(tf.reduce_max(images)) <= 1
    with pytest.raises(ValueError, match="give labels"):
        by_class.decode_latent(latent)
    with pytest.raises(ValueError, match="can't generate"):
        build(tiny.model_config(conditioning="hidden")).decode_latent(latent)


def test_hidden_conditioning_reports_no_elbo() -> None:
    model = build(tiny.model_config(conditioning="hidden"))
    results = model.analyse(pixels(2))
    assert np.isnan(results["elbo"]).all()
    assert np.isfinite(results["conditional_bound"]).all()
    assert model.scores.score == "neighbours"
    assert set(model.outlier_terms(pixels(2))) == {
        "energy", "neighbours", "mahalanobis", "relative_mahalanobis"
    }  # fmt: skip
    with pytest.raises(ValueError, match="no density"):
        bound_of_images(model, tiny.image_set(1).images, samples=1)


@pytest.mark.skipif(
    hidden_bfloat16_units(), reason="ONEDNN_MAX_CPU_ISA hides the processor's bfloat16 units"
)
def test_bfloat16_bodies_keep_float32_heads() -> None:
    exact, mixed = build(), build(body_dtype="mixed_bfloat16")
    for target, source in zip(mixed.weights, exact.weights, strict=True):
        assert target.dtype == "float32"
        target.assign(source)
    images = pixels(4)
    a, b = exact.analyse(images), mixed.analyse(images)
    assert all(value.dtype != tf.bfloat16 for value in b.values())
    np.testing.assert_allclose(a["elbo"], b["elbo"], rtol=0.02)
