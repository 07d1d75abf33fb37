"""Trains a VAE-classifier: the one entry point, for one device, many GPUs and many workers.

`pipeline/run_fn.py`, `python -m trainer` and the benchmarks call it. The same call with the same
working directory resumes a killed run where it stopped and ends with the same weights.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.backbone_weights import read_weights
from trainer.config import ImageConfig, ModelConfig, TrainerConfig, check_consistent
from trainer.data import features
from trainer.data.input_pipeline import ImageSet
from trainer.data.streams import learning_splits
from trainer.model.vae_classifier import VaeClassifier
from trainer.model.weights import digest_arrays
from trainer.optimization import callbacks, preemption, starts
from trainer.optimization import strategy as strategies
from trainer.optimization.loop import TrainingLoop
from trainer.optimization.pretraining import Pretrained, pretrain
from trainer.optimization.teachers import Taught, TaughtLoop, teach
from trainer.optimization.warm_start import Base, WarmStart, begin_with, fit_base
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
    splits = learning_splits(data, trainer_config)

    backbone = model_config.backbone_options
    pretrained = None
    if backbone is not None and backbone.is_pretrained:
        pretrained = read_weights(backbone, image_shape)

    def create(body_dtype: str, outputs: int = num_classes) -> VaeClassifier:
        return VaeClassifier(
            config=model_config,
            image_shape=image_shape,
            num_classes=outputs,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            body_dtype=body_dtype,
        )

    start = None if base is None else fit_base(base, create("float32"), classes)
    begun = start

    def build(body_dtype: str) -> VaeClassifier:
        model = create(body_dtype)
        if pretrained is not None:
            model.encoder.set_weights(pretrained)
        if begun is not None:
            begin_with(model, begun)
        return model

    # A base model takes the place of the backbone's weights as far as it has its own.
    origins = [digest_arrays(pretrained)] if pretrained is not None else []
    origins += [start.digest] if start is not None else []
    pretrained_on_turns: Pretrained | None = None
    taught: Taught | None = None
    progress = progress or callbacks.log_progress

    def create_loop(config: TrainerConfig, folder: str) -> TrainingLoop:
        base = "+".join(origins)
        if taught is None:
            return TrainingLoop(build, config, splits, strategy, folder, progress, base)
        return TaughtLoop(build, config, splits, strategy, folder, progress, base, taught=taught)

    with preemption.stop_on_sigterm() as stop:
        # An earlier model has learned to see already.
        if base is None and trainer_config.pretraining.epochs:
            pretrained_on_turns = pretrain(
                create, trainer_config, splits, strategy, os.fspath(workdir), stop, progress
            )
            found = pretrained_on_turns.base
            begun = fit_base(found, create("float32"), classes)
            origins.append(found.digest)
        if trainer_config.count_teachers(len(splits.get(features.UNLABELLED, ()))):
            taught = teach(
                build, trainer_config, splits, strategy, os.fspath(workdir), stop, progress,
                "+".join(origins), num_classes,
            )  # fmt: skip
            origins.append(taught.digest)
        run = starts.begin(create_loop, trainer_config, splits, strategy, os.fspath(workdir), stop)
        if start is not None and not run.steps and strategies.is_chief(strategy):
            _PROGRESS.info("%s", start.line())
        run.loop(stop)
    model = run.finish()
    report: dict[str, Any] = {}
    held_out: HeldOutAnswers | None = None
    summary: dict[str, Any] = {}
    bound: dict[str, Any] = {}
    if fit_scores and strategies.is_chief(strategy):
        report, held_out = _calibrate(model, trainer_config, splits)
        summary = _summarise(model, trainer_config, splits)
        bound = _measure_bound(model, trainer_config, splits)
    if bound:
        run.history[-1][callbacks.HISTORY_BOUND] = bound
        callbacks.write_history(os.fspath(workdir), run.history)
        if run.last_event is not None:
            progress(dataclasses.replace(run.last_event, bound=describe_bound(bound)))
    return TrainResult(
        model=model,
        history=run.history,
        calibration=report,
        held_out=held_out,
        summaries=summary,
        bound=bound,
        arithmetic=dataclasses.asdict(run.arithmetic),
        steps=run.steps,
        images_per_sec=run.images_per_sec,
        warm_start=start,
        pretraining=pretrained_on_turns,
        taught=taught,
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
