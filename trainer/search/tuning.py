"""Runs the tuner's search: KerasTuner proposes options, short trainings measure them.

`pipeline/tuner_fn.py` passes it to TFX's Tuner component; the best options are returned as
configurations. Only this module imports keras_tuner.
"""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras_tuner

from trainer.config import ImageConfig, ModelConfig, TrainerConfig, check_consistent
from trainer.data import features
from trainer.data.input_pipeline import ImageSet
from trainer.errors import InputError
from trainer.optimization import strategy as strategies
from trainer.optimization.callbacks import TrainingProgress
from trainer.optimization.checkpoints import CHECKPOINTS
from trainer.optimization.preemption import TrainingDivergedError
from trainer.progress import PROGRESS_LOGGER
from trainer.quality.evaluation import measured_loss
from trainer.search.tuning_space import TunerConfig, apply, searched_options
from trainer.storage import files
from trainer.train import train

_LOG = logging.getLogger(PROGRESS_LOGGER)
_HIGHER_IS_BETTER = ("accuracy", "elbo")
_EPOCHS = "tuner/epochs"
"""Hyperparameter in which Hyperband sets the length of a trial, in its own whole epochs."""
_HYPERBAND_EPOCHS = 9
"""Hyperband's resource ranges from 1 to this; it represents shares of `trainer.tuner.epochs`."""


class _StopSearchError(keras_tuner.errors.FatalError):
    """Wraps the error that ends the search; KerasTuner treats any other error as a failed trial."""


def search_space(model: ModelConfig, config: TrainerConfig) -> keras_tuner.HyperParameters:
    """Converts the space (`trainer.tuner.space`, or the encoder's default) to KerasTuner's."""
    space = keras_tuner.HyperParameters()
    for key, choice in sorted(searched_options(config.tuner, model.encoder).items()):
        low, high = choice.ends
        sampling = "log" if choice.log else "linear"
        if choice.values:
            # KerasTuner has no values with parts, and makes numbers of booleans.
            packed = dict | list | bool
            texts = [json.dumps(v) if isinstance(v, packed) else v for v in choice.values]
            space.Choice(key, texts, ordered=False)
        elif choice.integer:
            space.Int(key, low, high, sampling=sampling)
        else:
            space.Float(key, low, high, sampling=sampling)
    return space


def _oracle(model: ModelConfig, config: TrainerConfig) -> keras_tuner.Oracle:
    options = config.tuner
    arguments: dict[str, Any] = {
        "objective": keras_tuner.Objective(options.metric, _direction(options)),
        "hyperparameters": search_space(model, config),
        "seed": config.seed,
    }
    if options.algorithm == "hyperband":
        oracle = keras_tuner.oracles.HyperbandOracle(max_epochs=_HYPERBAND_EPOCHS, **arguments)
        # Hyperband has no such argument, and without a bound it runs its full schedule.
        oracle.max_trials = options.trials
        return oracle
    kind = {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    }[options.algorithm]
    return kind(max_trials=options.trials, **arguments)


def _direction(options: TunerConfig) -> str:
    return "max" if options.metric in _HIGHER_IS_BETTER else "min"


def shortened(config: TrainerConfig, epochs: float) -> TrainerConfig:
    """Returns the options of a trial: at most `epochs`, with schedules in proportion."""
    share = min(1.0, epochs / config.epochs)
    tree = config.model_dump(mode="json")
    tree["epochs"] *= share
    tree["max_minutes"] *= share
    tree["optimizer"]["warmup_epochs"] *= share
    tree["objective"]["beta_warmup_epochs"] *= share
    tree["semi_supervised"]["starts"] = 1
    tree["pretraining"]["epochs"] *= share
    tree["tensorboard"] = False
    return TrainerConfig.model_validate(tree)


class OptionTuner(keras_tuner.engine.base_tuner.BaseTuner):
    """Measures proposals with short trainings; use it with TFX's Tuner or call `search()`.

    A killed search resumes in the same directory: finished trials are kept, and the one that was
    running resumes from its checkpoint.

    Args:
        model_config: options of the network that the space does not name.
        trainer_config: options of the training; `trainer.tuner` configures the search.
        data: images by split name; trials are measured on `validation`.
        image_shape: (height, width, channels).
        num_classes: number of classes K.
        pixel_mean: mean of each channel.
        pixel_std: standard deviation of each channel.
        directory: folder of the trials.
        strategy: a tf.distribute strategy of one process; by default the one that
            `trainer.devices` selects.
        project_name: name of the subfolder in `directory`.

    Raises:
        ValueError: the strategy has several workers, which is not supported.
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
        strategy: Any = None,
        project_name: str = "tuner",
    ) -> None:
        strategy = strategy or strategies.create_strategy(trainer_config.devices)
        if strategies.is_clustered(strategy):
            raise ValueError(
                "trainer.tuner: several workers can't search together; run this step on one"
            )
        self._options = (model_config, trainer_config)
        self._arguments: dict[str, Any] = {
            "data": data,
            "image_shape": image_shape,
            "num_classes": num_classes,
            "pixel_mean": pixel_mean,
            "pixel_std": pixel_std,
            "strategy": strategy,
        }
        self._tuner_config = trainer_config.tuner
        super().__init__(
            oracle=_oracle(model_config, trainer_config),
            directory=directory,
            project_name=project_name,
            overwrite=False,
        )

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Runs the remaining trials.

        Raises:
            PreemptedError: SIGTERM was received; the same search resumes when it is started again.
            ValueError: an error that would stop every trial, or no trial succeeded.
        """
        try:
            super().search(*fit_args, **fit_kwargs)
        except _StopSearchError as stopped:
            raise (stopped.__cause__ or stopped) from None
        except RuntimeError as error:
            # KerasTuner gives up after three failed trials in a row.
            raise self._failure() from error
        (best,) = self.oracle.get_best_trials(1)
        # KerasTuner names a failed trial if there is no other.
        if best.score is None:
            raise self._failure()

    def _failure(self) -> InputError:
        # KerasTuner keeps the whole traceback, and none of a trial whose measure is not finite.
        messages = [trial.message for trial in self.oracle.trials.values() if trial.message]
        measured = f"a {self._tuner_config.metric} that is not finite"
        *_, line = messages[-1].strip().splitlines() if messages else [measured]
        reason = line.rpartition("FailedTrialError: ")[2]
        return InputError(f"trainer.tuner: the search failed, its last trial with: {reason}")

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        """Trains with a proposal and returns the measures of the validation split.

        TFX's Tuner passes the arguments of a Keras fit; they are ignored here.

        Raises:
            FailedTrialError: this proposal is invalid or diverges; others may succeed.
        """
        del fit_args, fit_kwargs
        try:
            model, trainer = self.best_options(trial.hyperparameters.values)
            height, width, channels = self._arguments["image_shape"]
            image = ImageConfig.model_validate(
                {"height": height, "width": width, "channels": channels}
            )
            check_consistent(image, model, trainer)
        except ValueError as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        try:
            return {self._tuner_config.metric: self._measure(trial, model, trainer)}
        except TrainingDivergedError as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        except Exception as error:
            raise _StopSearchError(str(error)) from error

    def _measure(self, trial: Any, model: ModelConfig, trainer: TrainerConfig) -> float:
        options = self._tuner_config
        granted = trial.hyperparameters.values.get(_EPOCHS, _HYPERBAND_EPOCHS) / _HYPERBAND_EPOCHS
        workdir = os.path.join(self.project_dir, f"trial_{trial.trial_id}")
        opening = f"trial {len(self.oracle.trials)} of {options.trials}"

        def report(event: TrainingProgress) -> None:
            _LOG.info("%s: %s", opening, event.line())

        result = train(
            model_config=model,
            trainer_config=shortened(trainer, options.epochs * granted),
            workdir=workdir,
            progress=report,
            fit_scores=False,
            **self._arguments,
        )
        files.remove(os.path.join(workdir, CHECKPOINTS))
        records = [self._comparable(record.get("validation", {})) for record in result.history]
        if options.metric not in records[-1]:
            raise ValueError(
                f"trainer.tuner.metric: {options.metric} is not measured; there must be a "
                "validation split with labels"
            )
        if trainer.early_stopping.keep == "last":
            return float(records[-1][options.metric])
        best = max if _direction(options) == "max" else min
        return float(best(record[options.metric] for record in records))

    def _comparable(self, measures: dict[str, float]) -> dict[str, float]:
        """Returns measures with the loss of the configured weights, which a trial may change."""
        if "loss" not in measures:
            return measures
        dimensions = math.prod(self._arguments["image_shape"])
        loss = measured_loss(measures, self._options[1].objective, dimensions)
        return {**measures, "loss": loss}

    def best_options(self, values: Mapping[str, Any]) -> tuple[ModelConfig, TrainerConfig]:
        """Returns the configurations of a proposal."""
        return apply(values, *self._options)

    def verdict(self) -> str:
        """Describes the best trial in one line."""
        (best,) = self.oracle.get_best_trials(1)
        chosen = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in best.hyperparameters.values.items()
            if not key.startswith("tuner/")
        )
        metric = self._tuner_config.metric
        trials = self.oracle.trials.values()
        failed = sum(trial.score is None for trial in trials)
        count = f"{len(trials)} trials{f' ({failed} failed)' if failed else ''}"
        images = len(self._arguments["data"][features.VALIDATION])
        return (
            f"best of {count}: {metric} {best.score:.4f} with {chosen}; measured on the "
            f"{images:,} validation images that chose the trial, so expect worse on others"
        )
