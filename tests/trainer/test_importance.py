"""The importance-weighted bound: between the ELBO and log p(x), a function of image and seed."""

import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.trainer import tiny
from tests.trainer.test_model import build
from trainer.optimization import losses
from trainer.optimization.callbacks import TrainingProgress
from trainer.quality import importance
from trainer.quality.importance import (
    SampledBound,
    bound_of_images,
    describe_bound,
    measure_bound,
    sampled_bound,
)


@pytest.mark.parametrize("conditioning", ["latent", "label"])
def test_the_bound_rises_from_the_elbo_to_the_density(
    conditioning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny.model_config(conditioning=conditioning))
    # A posterior near the prior, so that 2,000 samples are enough.
    model.posterior_mean.kernel.assign(0.2 * model.posterior_mean.kernel)
    # A decoder that ignores z: log p(x) is log p(x|z).
    model.decoder.trainable_weights[0].assign(tf.zeros(model.decoder.trainable_weights[0].shape))
    images = tiny.image_set(6).images
    pixels = images / np.float32(255)
    given = None if conditioning == "latent" else tf.zeros([6, tiny.CLASSES])
    density = model.observation.log_likelihood(pixels, model.decode(tf.zeros([6, 4]), given))
    density = density.numpy() - model.label_cost + math.log(1 if given is None else tiny.CLASSES)
    # Parts of 7 samples each, the last one with 5.
    monkeypatch.setattr(importance, "_DECODED_AT_ONCE", 7 * model.dimensions)
    bounds, elbos = bound_of_images(model, images, samples=2000, seed=1)
    encoded = model.encode(pixels)
    kl = losses.kl_divergence(encoded.mean, encoded.log_variance).numpy()
    assert kl.max() > 0.1
    np.testing.assert_allclose(bounds, density, atol=0.05)
    np.testing.assert_allclose(elbos, density - kl, atol=0.1)
    # Jensen's inequality holds for every set of samples, not only in the mean.
    assert (bounds >= elbos).all()


def test_an_image_has_one_bound_for_a_seed() -> None:
    model = build()
    images = tiny.image_set(5).images
    whole, _ = bound_of_images(model, images, samples=3, seed=1)
    alone, _ = bound_of_images(model, images[3:4], samples=3, seed=1)
    np.testing.assert_allclose(whole[3], alone[0], rtol=1e-6)
    again, _ = bound_of_images(model, images[::-1], samples=3, seed=1, batch_size=2)
    np.testing.assert_allclose(whole[::-1], again, rtol=1e-6)
    other, _ = bound_of_images(model, images, samples=3, seed=2)
    assert (np.abs(whole - other) > 1e-4).all()
    single, same = bound_of_images(model, images, samples=1, seed=1)
    np.testing.assert_allclose(single, same, rtol=1e-6)


def test_an_export_measures_a_share_of_the_images_chosen_by_content() -> None:
    model = build(tiny.model_config(encoder="conv"))
    keys = tf.constant([5, 1 << 19, (1 << 20) - 1, 9], tf.int64)
    pixels = tiny.image_set(4).images / np.float32(255)
    every, elbos = SampledBound(3)(model, pixels, keys)
    assert (every.numpy() >= elbos.numpy()).all()
    half = SampledBound(3, share=0.5)(model, pixels, keys)[0].numpy()
    np.testing.assert_array_equal(np.isnan(half), [False, True, True, False])
    np.testing.assert_allclose(half[[0, 3]], every.numpy()[[0, 3]], rtol=1e-6)
    assert np.isnan(SampledBound(3, share=0.0)(model, pixels, keys)).all()
    assert sampled_bound(model, 50, 100) == SampledBound(50)
    assert sampled_bound(model, 50, 5000) == SampledBound(50, share=0.1)
    assert sampled_bound(model, 0, 100) is None


def test_one_image_has_no_standard_error() -> None:
    model = tiny.build()
    found = measure_bound(model, tiny.image_set(1), samples=3, seed=0)
    assert found["standard_error"] is None
    line = describe_bound({**found, "split": "train"})
    assert "±" not in line
    assert "1 images of train" in line
    several = measure_bound(model, tiny.image_set(4), samples=3, seed=0)
    bounds, _ = bound_of_images(model, tiny.image_set(4).images, samples=3, seed=0)
    assert several["standard_error"] == pytest.approx(stats.sem(bounds), rel=1e-5)


def test_a_training_reports_the_bound(tmp_path: pathlib.Path) -> None:
    events: list[TrainingProgress] = []
    result = tiny.run(
        tmp_path,
        trainer_config=tiny.trainer_config(epochs=1, importance_samples=4),
        progress=events.append,
        fit_scores=True,
    )
    found = result.history[-1]["importance_bound"]
    assert found == result.bound
    assert (found["split"], found["images"], found["samples"]) == ("validation", 48, 4)
    assert found["elbo"] <= found["bound"]
    assert 0 < found["standard_error"] < 10
    assert found["bits_per_dimension"] == pytest.approx(-found["bound"] / 120 / math.log(2))
    shown = f"bound {found['bound']:.2f} ± {found['standard_error']:.2f} nats"
    assert shown in events[-1].line()
    assert '"importance_bound"' in (tmp_path / "history.json").read_text()
