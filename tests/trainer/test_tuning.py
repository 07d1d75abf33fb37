"""The tuner's search space and one tiny search."""

import pathlib

import pytest

from tests.trainer import tiny
from trainer import tuning

SPACE = {
    "trainer.optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.latent_size": {"values": [2, 3]},
}


def test_proposals_become_validated_options() -> None:
    model, trainer = tuning.apply(
        {"trainer.optimizer.learning_rate": 0.005, "model.latent_size": 3},
        tiny.model_config(),
        tiny.trainer_config(),
    )
    assert model.latent_size == 3
    assert trainer.optimizer.learning_rate == 0.005
    with pytest.raises(ValueError, match=r"`model\.latent` is no option"):
        tuning.apply({"model.latent": 3}, model, trainer)
    with pytest.raises(ValueError, match="latent_size"):
        tuning.apply({"model.latent_size": 0}, model, trainer)


def test_search_measures_short_trainings(tmp_path: pathlib.Path) -> None:
    config = tiny.trainer_config(tuner={"trials": 2, "epochs": 0.5, "space": SPACE})
    tuner = tuning.OptionTuner(
        model_config=tiny.model_config(),
        trainer_config=config,
        data=tiny.splits(64),
        image_shape=tiny.SHAPE,
        num_classes=tiny.CLASSES,
        pixel_mean=[0.3],
        pixel_std=[0.25],
        directory=str(tmp_path),
    )
    tuner.search()
    best = tuner.get_best_hyperparameters()[0]
    assert 1e-4 <= best.get("trainer.optimizer.learning_rate") <= 1e-2
    assert tuner.best_options(best.values)[0].latent_size in (2, 3)
    trials = tuner.oracle.trials.values()
    assert len({trial.score for trial in trials}) == 2
