"""The tuner's search space and one tiny search."""

import pathlib
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from tests.trainer import tiny
from trainer.config import ImageConfig, check_consistent
from trainer.optimization.preemption import PreemptedError, TrainingDivergedError
from trainer.search import tuning
from trainer.search.tuning_space import searched_options

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


def test_a_space_is_checked_before_anything_runs() -> None:
    def check(space: dict) -> None:
        trainer = tiny.trainer_config(tuner={"enabled": True, "space": space})
        check_consistent(ImageConfig(), tiny.model_config(), trainer)

    check(SPACE)
    with pytest.raises(ValueError, match=r"trainer\.tuner\.space: `model\.latent` is no option"):
        check({"model.latent": {"values": [2, 3]}})
    with pytest.raises(
        ValueError, match=r"trainer\.tuner\.space: optimizer\.learning_rate: .*than 0"
    ):
        check({"trainer.optimizer.learning_rate": {"low": -1, "high": 1}})
    with pytest.raises(ValueError, match="of one type"):
        check({"trainer.objective.alpha": {"values": [1, 0.5]}})
    with pytest.raises(ValueError, match="not be of the tuner itself"):
        check({"trainer.tuner.trials": {"values": [1, 2]}})
    with pytest.raises(ValueError, match=r"space: dropout: Input should be less than 1$"):
        check({"model.dropout": {"values": [0.1, 5.0, 0.2]}})
    with pytest.raises(ValueError, match=r"space: latent_size: .*; set integer: true"):
        check({"model.latent_size": {"low": 2, "high": 9}})
    with pytest.raises(ValueError, match=r"of whole numbers ends at them: 1.5, 9"):
        check({"model.latent_size": {"low": 1.5, "high": 9, "integer": True}})
    with pytest.raises(ValueError, match="`log` is of a tuner range"):
        check({"model.dropout": {"values": [0.1, 0.2], "log": True}})
    with pytest.raises(ValueError, match="finite"):
        check({"model.dropout": {"low": 0.1, "high": float("inf")}})
    # Two epochs of warm-up need the last number of epochs.
    warm_ups = {"trainer.optimizer.warmup_epochs": {"values": [0.0, 2.0, 5.0]}}
    check({"trainer.epochs": {"values": [1, 3, 10]}, **warm_ups})


def test_lists_are_searched() -> None:
    space = {"model.hidden": {"values": [[8], [16, 8]]}}
    config = tiny.trainer_config(tuner={"enabled": True, "space": space})
    check_consistent(ImageConfig(), tiny.model_config(), config)
    values = tuning.search_space(tiny.model_config(), config).get("model.hidden")
    model, _ = tuning.apply({"model.hidden": values}, tiny.model_config(), config)
    assert model.hidden == (8,)


def test_booleans_are_searched_and_shown_as_such() -> None:
    space = {"trainer.tensorboard": {"values": [False, True]}}
    config = tiny.trainer_config(tuner={"enabled": True, "space": space})
    values = tuning.search_space(tiny.model_config(), config).values
    assert values == {"trainer.tensorboard": "false"}
    assert not tuning.apply(values, tiny.model_config(), config)[1].tensorboard


def test_a_choice_of_a_section_sets_its_options_together() -> None:
    moved, lit = {"shift": 0.1, "zoom": 0.2}, {"contrast": 0.3}
    space = {
        "trainer.augmentation": {"values": [moved, lit]},
        "trainer.augmentation.shift": {"values": [0.05]},
    }
    config = tiny.trainer_config(tuner={"enabled": True, "space": space})
    check_consistent(ImageConfig(), tiny.model_config(), config)
    found = tuning.search_space(tiny.model_config(), config)
    assert found.get("trainer.augmentation") == '{"shift": 0.1, "zoom": 0.2}'
    own = tiny.trainer_config(augmentation={"horizontal_flip": True, "zoom": 0.1})
    for value in (found.values, {**found.values, "trainer.augmentation": moved}):
        _, trainer = tuning.apply(value, tiny.model_config(), own)
        assert (trainer.augmentation.shift, trainer.augmentation.zoom) == (0.05, 0.2)
        assert trainer.augmentation.horizontal_flip
    with pytest.raises(ValueError, match=r"`trainer\.augmentation` is a section"):
        tuning.apply({"trainer.augmentation": "strong"}, tiny.model_config(), own)


@pytest.mark.parametrize("encoder", ["mlp", "conv", "backbone"])
def test_the_default_space_of_an_encoder_is_valid(encoder: str) -> None:
    model, trainer = tiny.model_config(encoder=encoder), tiny.trainer_config()
    space = searched_options(trainer.tuner, encoder)
    assert set(tuning.search_space(model, trainer).values) == set(space)
    for end in (0, 1):
        tuning.apply({key: choice.ends[end] for key, choice in space.items()}, model, trainer)


def test_schedules_of_a_trial_are_shortened_with_it() -> None:
    config = tiny.trainer_config(epochs=10, optimizer={"warmup_epochs": 5})
    short = tuning.shortened(config, 2.0)
    assert (short.epochs, short.optimizer.warmup_epochs) == (2.0, 1.0)
    assert tuning.shortened(config, 20.0).epochs == 10


def tuner_in(folder: pathlib.Path, **options: object) -> tuning.OptionTuner:
    settings = {"trials": 2, "epochs": 0.5, "space": SPACE, **options}
    return tuning.OptionTuner(
        model_config=tiny.model_config(),
        trainer_config=tiny.trainer_config(tuner=settings),
        data=tiny.splits(64),
        image_shape=tiny.SHAPE,
        num_classes=tiny.CLASSES,
        pixel_mean=[0.3],
        pixel_std=[0.25],
        directory=str(folder),
    )


def test_a_stopped_search_goes_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials: list[str] = []

    def measured(values: list[float | Exception]) -> None:
        def measure(self: object, trial: Any, *options: object) -> float:
            del self, options
            trials.append(trial.trial_id)
            value = values.pop(0)
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(tuning.OptionTuner, "_measure", measure)

    measured([0.5, TrainingDivergedError("nan"), PreemptedError("stopped by SIGTERM")])
    with pytest.raises(PreemptedError, match="stopped by SIGTERM"):
        tuner_in(tmp_path, trials=4).search()
    measured([0.3, 0.7])
    tuner = tuner_in(tmp_path, trials=4)
    tuner.search()
    assert trials == ["0", "1", "2", "2", "3"]
    assert "best of 4 trials (1 failed): cross_entropy 0.3000" in tuner.verdict()
    # The best of several measures on few images is too good.
    assert "on the 48 validation images that chose the trial" in tuner.verdict()


@pytest.mark.parametrize("trials", [2, 4])
def test_a_search_without_a_result_says_why(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    def measure(*options: object) -> float:
        raise TrainingDivergedError("the loss is nan at step 3")

    monkeypatch.setattr(tuning.OptionTuner, "_measure", measure)
    with pytest.raises(ValueError, match=r"^trainer\.tuner: .*: the loss is nan at step 3$"):
        tuner_in(tmp_path, trials=trials).search()


def test_a_proposal_that_contradicts_other_options_is_a_failed_trial(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning.OptionTuner, "_measure", lambda *_: 0.5)
    space: dict[str, Any] = {"trainer.objective.binarise": {"values": [False, True]}}
    space["model.observation"] = {"values": ["bernoulli", "gaussian"]}
    tuner = tuner_in(tmp_path, trials=4, space=space)
    tuner.search()
    assert tuner.verdict().startswith("best of 4 trials (1 failed): cross_entropy 0.5000 with")


def test_trials_of_other_weights_are_compared_by_the_configured_loss(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(**arguments: Any) -> SimpleNamespace:
        tf.io.gfile.makedirs(f"{arguments['workdir']}/checkpoints")
        weight = arguments["trainer_config"].objective.generative_weight
        measures = {"elbo": -120.0, "kl": 5.0, "cross_entropy": 1 - weight, "loss": weight}
        return SimpleNamespace(history=[{"validation": measures}])

    monkeypatch.setattr(tuning, "train", fake)
    space = {"trainer.objective.generative_weight": {"values": [0.1, 0.5]}}
    tuner = tuner_in(tmp_path, metric="loss", space=space)
    tuner.search()
    assert "best of 2 trials: loss 1.5000 with trainer.objective.generative_weight 0.5" in (
        tuner.verdict()
    )


def test_hyperband_gives_the_best_settings_more_epochs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[float] = []

    def fake(**arguments: Any) -> SimpleNamespace:
        epochs.append(arguments["trainer_config"].epochs)
        tf.io.gfile.makedirs(f"{arguments['workdir']}/checkpoints")
        return SimpleNamespace(history=[{"validation": {"cross_entropy": 1 / len(epochs)}}])

    monkeypatch.setattr(tuning, "train", fake)
    tuner_in(tmp_path, algorithm="hyperband", trials=14, epochs=2.7).search()
    assert len(epochs) == 14
    assert epochs[:9] == pytest.approx([0.3] * 9)
    assert epochs[9:12] == pytest.approx([0.9] * 3)
    assert epochs[12] == pytest.approx(2.7)


def test_search_measures_short_trainings(tmp_path: pathlib.Path) -> None:
    tuner = tuner_in(tmp_path)
    tuner.search()
    best = tuner.get_best_hyperparameters()[0]
    assert 1e-4 <= best.get("trainer.optimizer.learning_rate") <= 1e-2
    assert tuner.best_options(best.values)[0].latent_size in (2, 3)
    trials = tuner.oracle.trials.values()
    assert len({trial.score for trial in trials}) == 2
