"""The tuner's search: KerasTuner proposes options, short trainings measure them.

`pipeline/` hands these pieces to TFX's Tuner component; the best options come back as
configurations. Only this module imports keras_tuner.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras_tuner

from trainer.config import ModelConfig, TrainerConfig
from trainer.input_pipeline import ImageSet
from trainer.train import train

_HIGHER_IS_BETTER = ("accuracy", "elbo")


def search_space(config: TrainerConfig) -> keras_tuner.HyperParameters:
    """The configured space (`trainer.tuner.space`) as KerasTuner's."""
    space = keras_tuner.HyperParameters()
    for key, choice in sorted(config.tuner.space.items()):
        if choice.values:
            space.Choice(key, list(choice.values), ordered=False)
        elif choice.integer:
            space.Int(key, int(choice.low or 0), int(choice.high or 0), sampling=_sampling(choice))
        else:
            space.Float(key, choice.low, choice.high, sampling=_sampling(choice))
    return space


def _sampling(choice: Any) -> str:
    return "log" if choice.log else "linear"


def apply(
    values: Mapping[str, Any], model: ModelConfig, trainer: TrainerConfig
) -> tuple[ModelConfig, TrainerConfig]:
    """The configurations with the proposed options in place, validated anew.

    Args:
        values: dotted option names, as in `trainer.tuner.space`, and their values.
        model: the network's options.
        trainer: the training's options.

    Raises:
        ValueError: a name that is no option, or a value out of its range.
    """
    trees: dict[str, Any] = {
        "model": model.model_dump(mode="json"),
        "trainer": trainer.model_dump(mode="json"),
    }
    for key, value in values.items():
        *path, leaf = key.split(".")
        place: Any = trees
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or leaf not in place:
            raise ValueError(f"trainer.tuner.space: `{key}` is no option")
        place[leaf] = value
    return (
        ModelConfig.model_validate(trees["model"]),
        TrainerConfig.model_validate(trees["trainer"]),
    )


class OptionTuner(keras_tuner.engine.base_tuner.BaseTuner):
    """Measures proposals by short trainings; use with TFX's Tuner or by `search()`.

    Args:
        model_config: options that the space does not name.
        trainer_config: likewise; `trainer.tuner` says how to search.
        data: images by split name; `validation` is measured.
        image_shape: (height, width, channels).
        num_classes: K.
        pixel_mean: mean of each channel.
        pixel_std: standard deviation of each channel.
        directory: for the trials.
        project_name: folder in it.
    """

    def __init__(
        self,
        *,
        model_config: ModelConfig,
        trainer_config: TrainerConfig,
        data: Mapping[str, ImageSet],
        image_shape: Sequence[int],
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        directory: str,
        project_name: str = "tuner",
    ) -> None:
        options = trainer_config.tuner
        self._options = (model_config, trainer_config)
        self._arguments: dict[str, Any] = {
            "data": data,
            "image_shape": image_shape,
            "num_classes": num_classes,
            "pixel_mean": pixel_mean,
            "pixel_std": pixel_std,
        }
        self._metric = options.metric
        direction = "max" if options.metric in _HIGHER_IS_BETTER else "min"
        kind = {
            "random": keras_tuner.oracles.RandomSearchOracle,
            "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        }[options.algorithm]
        oracle = kind(
            objective=keras_tuner.Objective(options.metric, direction),
            max_trials=options.trials,
            hyperparameters=search_space(trainer_config),
            seed=trainer_config.seed,
        )
        super().__init__(
            oracle=oracle, directory=directory, project_name=project_name, overwrite=False
        )

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        """Trains with a proposal and returns the validation split's measures.

        TFX's Tuner passes the arguments of a Keras fit; they have no meaning here.
        """
        del fit_args, fit_kwargs
        model, trainer = self.best_options(trial.hyperparameters.values)
        short = trainer.model_copy(
            update={"epochs": min(trainer.epochs, trainer.tuner.epochs), "tensorboard": False}
        )
        result = train(
            model_config=model,
            trainer_config=TrainerConfig.model_validate(short.model_dump()),
            workdir=os.path.join(self.project_dir, f"trial_{trial.trial_id}"),
            progress=lambda event: None,
            **self._arguments,
        )
        measures = result.history[-1].get("validation", {})
        if self._metric not in measures:
            raise ValueError(
                f"trainer.tuner.metric: {self._metric} is not measured; there must be a validation "
                "split with labels"
            )
        return {self._metric: measures[self._metric]}

    def best_options(self, values: Mapping[str, Any]) -> tuple[ModelConfig, TrainerConfig]:
        """The configurations that a proposal stands for."""
        return apply(values, *self._options)
