"""The ELBO of `analyse`: its noise per image, and its mean over a data set."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer import tiny
from tests.trainer.tiny import build
from trainer.model.elbo_noise import antithetic_noise
from trainer.quality.importance import bound_of_images


@pytest.mark.parametrize("samples", [2, 4])
def test_the_mean_elbo_of_analyse_is_that_of_many_samples(samples: int) -> None:
    model = build(tiny.model_config(elbo_samples=samples))
    for weight in model.decoder.trainable_weights:
        weight.assign_add(0.1 * tf.random.stateless_normal(weight.shape, [4, 2]))
    images = tiny.image_set(400).images
    _, sampled = bound_of_images(model, images, samples=1000, seed=1, batch_size=200)
    errors = model.analyse(images / np.float32(255))["elbo"] - sampled
    # With noise that images share it is off by 40 standard errors.
    assert abs(np.mean(errors)) < 3.5 * np.std(errors) / np.sqrt(400)


@pytest.mark.parametrize("samples", [1, 2, 4, 6])
def test_moments_of_the_noise_over_images(samples: int) -> None:
    count, size = 3000, 5
    images = tiny.image_set(count, shape=(6, 6, 3)).images
    noise = antithetic_noise(images / np.float32(255), samples, size).numpy()
    assert noise.shape == (1 + samples, count, size)
    np.testing.assert_array_equal(noise[0], 0)
    vectors = noise[1:]
    np.testing.assert_array_equal(vectors[1::2], -vectors[: samples // 2 * 2 : 2])
    squares = np.sum(np.square(vectors, dtype=np.float64), axis=-1)
    np.testing.assert_allclose(squares.mean(axis=0), size, rtol=1e-5)
    if samples % 4 == 0:
        np.testing.assert_allclose((squares**2).mean(axis=0), size * (size + 2), rtol=1e-5)
    for each in vectors:
        scaled = each * np.sqrt(size / np.mean(np.sum(each**2, axis=-1)))
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=5 / np.sqrt(count))
        np.testing.assert_allclose(scaled.T @ scaled / count, np.eye(size), atol=7 / np.sqrt(count))


def test_noise_depends_on_every_level_of_its_own_image_alone() -> None:
    levels = np.zeros((7, 4, 3, 1), np.uint8)
    levels[1] = 255
    levels[2:4] = 130
    levels[3, 2, 1] = 131
    # Exact copies, and levels that rounding has moved by less than half of one.
    unit = levels / np.float32(255)
    unit[6] = (unit[2] * 255 + 0.3) / 255
    together = antithetic_noise(unit, 2, 4).numpy()
    for place in range(7):
        alone = antithetic_noise(unit[place : place + 1], 2, 4).numpy()
        np.testing.assert_array_equal(alone[:, 0], together[:, place])
    first = together[1]
    np.testing.assert_array_equal(first[6], first[2])
    np.testing.assert_array_equal(first[4], first[0])
    different = first[[0, 1, 2, 3]]
    distances = np.linalg.norm(different[:, np.newaxis] - different, axis=-1)
    assert (distances[~np.eye(4, dtype=bool)] > 0.1).all()
    assert np.isfinite(together).all()


def test_one_latent_dimension_and_large_images() -> None:
    images = np.full((2, 300, 200, 3), 255, np.uint8)
    for samples in (1, 2, 4):
        noise = antithetic_noise(images / np.float32(255), samples, 1).numpy()
        assert np.isfinite(noise).all()
        assert np.mean(noise[1:] ** 2) == pytest.approx(1.0)
