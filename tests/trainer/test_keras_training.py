"""A Keras user's model: loaded from a file, compiled, fitted and evaluated by Keras itself."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer import tiny
from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.options import ObjectiveConfig
from trainer.quality.evaluation import Evaluator


def as_unit(data: ImageSet) -> np.ndarray:
    return data.images.astype(np.float32) / 255.0


def reload(model: VaeClassifier, path: pathlib.Path) -> VaeClassifier:
    model.save(path)
    return keras.saving.load_model(path)


@pytest.mark.parametrize(("encoder", "conditioning"), [("mlp", "hidden"), ("conv", "label")])
def test_a_loaded_model_is_fitted_and_evaluated(
    encoder: str, conditioning: str, tmp_path: pathlib.Path
) -> None:
    config = tiny.model_config(encoder=encoder, conditioning=conditioning, dropout=0.1)
    model = reload(tiny.build(config), tmp_path / "model.keras")
    # 100 images in batches of 32: the last one is smaller.
    train, test = tiny.image_set(100), tiny.image_set(70, seed=1)
    test.labels[::7] = -1
    objective = ObjectiveConfig(alpha=2.0, generative_weight=0.5, beta=0.3)
    model.compile(keras.optimizers.Adam(5e-3), objective=objective, jit_compile=False)
    history = model.fit(as_unit(train), train.labels, batch_size=32, epochs=8, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert history["accuracy"][-1] > history["accuracy"][0]
    expected = Evaluator(model, 32)(test, objective)
    found = model.evaluate(as_unit(test), test.labels, batch_size=32, return_dict=True, verbose=0)
    bound = "conditional_bound" if conditioning == "hidden" else "elbo"
    assert found.keys() == {"loss", "accuracy", "cross_entropy", "kl", bound}
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


def test_a_compiled_model_is_saved_with_its_objective(tmp_path: pathlib.Path) -> None:
    data = tiny.image_set(32)
    model = tiny.build()
    assert model.metrics == []
    weights = [weight.path for weight in model.weights]
    model.compile("sgd", objective=ObjectiveConfig(alpha=3.0, beta=0.5), seed=7)
    assert [weight.path for weight in model.weights] == weights
    again = reload(model, tmp_path / "model.keras")
    assert again.objective == model.objective
    assert again.noise_seed == 7
    assert again.optimizer.name == "sgd"
    losses = [m.evaluate(as_unit(data), data.labels, verbose=0)[0] for m in (model, again)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_same_seed_trains_the_same_weights() -> None:
    data = tiny.image_set(64)
    fitted = []
    for seed in (1, 1, 2):
        model = tiny.build()
        model.compile(keras.optimizers.Adam(1e-2), seed=seed, jit_compile=False)
        model.fit(as_unit(data), data.labels, batch_size=16, shuffle=False, verbose=0)
        fitted.append(np.concatenate([np.ravel(weight.numpy()) for weight in model.weights]))
    np.testing.assert_array_equal(fitted[0], fitted[1])
    assert not np.array_equal(fitted[0], fitted[2])


def test_pixels_in_another_range_are_refused() -> None:
    data = tiny.image_set(8)
    model = tiny.build()
    model.compile("adam", jit_compile=False)
    levels = data.images.astype(np.float32)
    unit = as_unit(data)
    for call in (
        lambda: model.fit(levels, data.labels, verbose=0),
        lambda: model.fit(unit, data.labels, validation_data=(levels, data.labels), verbose=0),
        lambda: model.evaluate(data.images, data.labels, verbose=0),
        lambda: model.predict(tf.constant(2.0 * unit - 1.0), verbose=0),
    ):
        with pytest.raises(ValueError, match=r"pixels in \[0, 1\]; got .* Divide levels"):
            call()
    assert model.optimizer.iterations == 0
    model.predict(1.1 * unit, verbose=0)  # as some ways to resize overshoot


def test_a_loss_of_the_users_own_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss is the model's own; got one\. Leave it out"):
        tiny.build().compile("adam", loss="mse")
    model = tiny.build()
    model.compile("adam", jit_compile=False)
    data = tiny.image_set(8)
    with pytest.raises(ValueError, match="takes no sample weights"):
        model.fit(as_unit(data), data.labels, sample_weight=np.ones(8), verbose=0)
