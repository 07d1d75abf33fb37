"""Trains a VAE-classifier: the one entry point, for one device, many GPUs and many workers.

`pipeline/run_fn.py`, `python -m trainer` and the benchmarks call it. The same call with the same
working directory resumes a killed run where it stopped and ends with the same weights.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.config import ImageConfig, ModelConfig, TrainerConfig, check_consistent
from trainer.data import features
from trainer.data.input_pipeline import ImageSet
from trainer.data.streams import learning_splits
from trainer.model.vae_classifier import VaeClassifier
from trainer.optimization import callbacks, preemption, starts
from trainer.optimization import strategy as strategies
from trainer.optimization.loop import TrainingLoop
from trainer.optimization.model_factory import ModelFactory
from trainer.optimization.pretraining import Pretrained, pretrain
from trainer.optimization.stages import TrainingStage
from trainer.optimization.teachers import Taught, TaughtLoop, teach
from trainer.optimization.warm_start import Base, WarmStart
from trainer.progress import PROGRESS_LOGGER
from trainer.quality.calibration import calibrate
from trainer.quality.held_out import HeldOutAnswers
from trainer.quality.importance import describe_bound, is_measured, measure_bound
from trainer.quality.summaries import summarise_images
from trainer.storage import files

_LOG = logging.getLogger(__name__)
_PROGRESS = logging.getLogger(PROGRESS_LOGGER)
_FEWEST_SUMMARISED = 100
"""Images of one split from which on the summaries need no other split."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The result of a training run.

    Attributes:
        model: the trained and calibrated model, float32, created outside of any strategy.
        history: one record per evaluation.
        calibration: the report of `calibration.calibrate`; empty if there is neither a calibration
            nor a validation split.
        held_out: the calibrated model's answers on the calibration split; None without one, also
            where the validation split took its place.
        summaries: statistics of images from the training distribution
            (`summaries.summarise_images`), for drift checks.
        bound: the importance-weighted bound (`importance.measure_bound`) and its split; empty if
            it was not measured.
        arithmetic: how loss and gradients were computed (`arithmetic.Arithmetic`).
        steps: number of completed steps.
        images_per_sec: steady-state throughput of the last calls.
        warm_start: the weights that the training started from; None for a cold start.
        pretraining: what it learned before the classes; None without.
        taught: what teachers said about the images without labels; None without teachers.
    """

    model: VaeClassifier
    history: list[dict[str, Any]]
    calibration: dict[str, Any]
    held_out: HeldOutAnswers | None
    summaries: dict[str, Any]
    bound: dict[str, Any]
    arithmetic: dict[str, Any]
    steps: int
    images_per_sec: float
    warm_start: WarmStart | None = None
    pretraining: Pretrained | None = None
    taught: Taught | None = None


def train(
    *,
    model_config: ModelConfig,
    trainer_config: TrainerConfig,
    data: Mapping[str, ImageSet],
    image_shape: Sequence[int],
    num_classes: int,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    workdir: str | os.PathLike[str],
    strategy: Any = None,
    progress: callbacks.ProgressFn | None = None,
    fit_scores: bool = True,
    base: Base | None = None,
    classes: Sequence[str] = (),
) -> TrainResult:
    """Trains a model and returns it with its history.

    Args:
        model_config: options of the network.
        trainer_config: options of the training.
        data: images by split name (`features.SPLITS`); only `train` is required.
        image_shape: (height, width, channels).
        num_classes: number of classes K.
        pixel_mean: mean of each channel over the train split, pixels in [0, 1].
        pixel_std: standard deviation of each channel over the train split.
        workdir: folder for checkpoints, history.json and TensorBoard; the same for every worker.
        strategy: a tf.distribute strategy; by default the one that `trainer.devices` selects.
        progress: called after every call and every evaluation; logs by default.
        fit_scores: whether to calibrate, summarise and measure the importance-weighted bound after
            training; off for trials of the tuner.
        base: an earlier model to start from; a checkpoint in `workdir` takes precedence.
        classes: names of the classes in order, compared with those of `base`.

    Returns:
        The model with the best or the last weights, as configured. With several workers, only the
        chief calibrates and summarises.

    Raises:
        ValueError: the options contradict each other or the data.
        preemption.PreemptedError: SIGTERM was received; the state is saved.
        preemption.TrainingDivergedError: the loss is not finite.
    """
    height, width, channels = image_shape
    image_config = ImageConfig.model_validate(
        {"height": height, "width": width, "channels": channels}
    )
    check_consistent(image_config, model_config, trainer_config)
    files.make_folder(os.fspath(workdir))
    strategy = strategy or strategies.create_strategy(trainer_config.devices)
    progress = progress or callbacks.log_progress
    splits = learning_splits(data, trainer_config)
    models = ModelFactory(model_config, image_shape, num_classes, pixel_mean, pixel_std)
    warm_start = models.start_from(base, classes) if base is not None else None
    pretrained: Pretrained | None = None
    taught: Taught | None = None
    with preemption.stop_on_sigterm() as stop:
        stage = TrainingStage(splits, strategy, os.fspath(workdir), stop, progress)
        # An earlier model has learned to see already.
        if base is None and trainer_config.pretraining.epochs:
            pretrained = pretrain(models.create, trainer_config, stage)
            models.start_from(pretrained.base, classes)
        if trainer_config.count_teachers(len(splits.get(features.UNLABELLED, ()))):
            taught = teach(
                models.build, trainer_config, stage, base=models.origin, num_classes=num_classes
            )
        run = starts.begin(functools.partial(_create_loop, models, taught), trainer_config, stage)
        if warm_start is not None and not run.steps and strategies.is_chief(strategy):
            _PROGRESS.info("%s", warm_start.line())
        run.loop()
    model = run.finish()
    fitted = _Fitted()
    if fit_scores and strategies.is_chief(strategy):
        fitted = _fit_scores(model, trainer_config, splits)
    if fitted.bound:
        run.history[-1][callbacks.HISTORY_BOUND] = fitted.bound
        callbacks.write_history(os.fspath(workdir), run.history)
        if run.last_event is not None:
            progress(dataclasses.replace(run.last_event, bound=describe_bound(fitted.bound)))
    return TrainResult(
        model=model,
        history=run.history,
        calibration=fitted.calibration,
        held_out=fitted.held_out,
        summaries=fitted.summaries,
        bound=fitted.bound,
        arithmetic=dataclasses.asdict(run.arithmetic),
        steps=run.steps,
        images_per_sec=run.images_per_sec,
        warm_start=warm_start,
        pretraining=pretrained,
        taught=taught,
    )


def _create_loop(
    models: ModelFactory, taught: Taught | None, config: TrainerConfig, stage: TrainingStage
) -> TrainingLoop:
    if taught is None:
        return TrainingLoop(models.build, config, stage, models.origin)
    origin = "+".join(filter(None, (models.origin, taught.digest)))
    return TaughtLoop(models.build, config, stage, origin, taught=taught)


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """What is fitted and measured after a training; the attributes are those of `TrainResult`."""

    calibration: dict[str, Any] = dataclasses.field(default_factory=dict)
    held_out: HeldOutAnswers | None = None
    summaries: dict[str, Any] = dataclasses.field(default_factory=dict)
    bound: dict[str, Any] = dataclasses.field(default_factory=dict)


def _fit_scores(
    model: VaeClassifier, config: TrainerConfig, splits: Mapping[str, ImageSet]
) -> _Fitted:
    # First, because the summaries are of the calibrated scores.
    calibration, held_out = _calibrate(model, config, splits)
    return _Fitted(
        calibration=calibration,
        held_out=held_out,
        summaries=_summarise(model, config, splits),
        bound=_measure_bound(model, config, splits),
    )


def _measure_bound(
    model: VaeClassifier, config: TrainerConfig, splits: Mapping[str, ImageSet]
) -> dict[str, Any]:
    if not is_measured(model, config.importance_samples):
        return {}
    held_out = (features.VALIDATION, features.CALIBRATION, features.TRAIN)
    name = next(name for name in held_out if name in splits)
    found = measure_bound(model, splits[name], samples=config.importance_samples, seed=config.seed)
    return {"split": name, **found}


def _summarise(
    model: VaeClassifier, config: TrainerConfig, splits: Mapping[str, ImageSet]
) -> dict[str, Any]:
    unlearned = _unlearned(splits)
    summary: dict[str, Any] = {}
    if unlearned is not None:
        summary = summarise_images(
            model, unlearned, seed=config.seed, batch_size=config.evaluation_batch_size
        )
    return {**summary, "priors": _priors(splits[features.TRAIN], model.num_classes)}


def _priors(data: ImageSet, num_classes: int) -> list[float]:
    """Returns the share of each class among the labelled images: the classifier's prior."""
    counts = np.bincount(data.labels[data.labels >= 0], minlength=num_classes)
    return (counts / max(counts.sum(), 1)).tolist()


def _unlearned(splits: Mapping[str, ImageSet]) -> ImageSet | None:
    """Returns the reference images for drift: from the training distribution, but held out.

    A model is more confident on its training images, and each of them is its own nearest
    neighbour. Scores over the train split would make every new image look like drift, so there is
    no summary without held-out images. The tests take the reference for a sample, so few images
    make them less sensitive, and raise no false alarms.
    """
    held_out = [
        splits[name] for name in (features.CALIBRATION, features.VALIDATION) if name in splits
    ]
    for part in held_out:
        if len(part) >= _FEWEST_SUMMARISED:
            return part
    if not any(map(len, held_out)):
        return None
    return ImageSet(
        np.concatenate([part.images for part in held_out]),
        np.concatenate([part.labels for part in held_out]),
    )


def _calibrate(
    model: VaeClassifier, config: TrainerConfig, splits: Mapping[str, ImageSet]
) -> tuple[dict[str, Any], HeldOutAnswers | None]:
    """Fits the quality scores on the calibration split, falling back to validation."""
    for name in (features.CALIBRATION, features.VALIDATION):
        if name in splits:
            report, answers = calibrate(
                model,
                train=splits[features.TRAIN],
                calibration=splits[name],
                config=config.calibration,
                seed=config.seed,
                batch_size=config.evaluation_batch_size,
            )
            # The best weights were chosen on validation, so answers there are too good.
            held_out = answers if name == features.CALIBRATION and len(answers) else None
            return {"split": name, **report}, held_out
    _LOG.warning("no calibration split: temperature 1, every verdict is accept")
    return {}, None
