"""Trains the encoder on images alone, to tell how far each was turned, before it learns classes.

`trainer/train.py` calls it. With few labels, most of what an encoder has to see can be learned from
images that have none: to tell the turns of photographs it has to recognise what they show (Gidaris,
Singh and Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations").
"""

import dataclasses
import gc
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import tensorflow as tf

from trainer.config import TrainerConfig
from trainer.data import features
from trainer.data.input_pipeline import ImageSet
from trainer.data.streams import combine
from trainer.model.vae_classifier import VaeClassifier
from trainer.optimization import strategy as strategies
from trainer.optimization.loop import TrainingLoop
from trainer.optimization.noise import Noise, shape_of
from trainer.optimization.objective import Batch
from trainer.optimization.stages import TrainingStage
from trainer.optimization.step import TrainingStep
from trainer.optimization.warm_start import Base, base_of
from trainer.progress import PROGRESS_LOGGER

_PROGRESS = logging.getLogger(PROGRESS_LOGGER)

TURNS: Final = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")
"""Classes of the pretraining: how far an image was turned, anticlockwise."""

_STAGE: Final = "pretraining"
_REPORTS: Final = 10
_BATCH: Final = 128
"""Least default size; few labels go with small batches, which images without labels do not need."""

ModelFn = Callable[[str, int], VaeClassifier]
"""Creates a model from the dtype policy of its bodies and its number of classes."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The end of a pretraining.

    Attributes:
        base: the weights that the training starts from, as far as they do not depend on the
            classes.
        images: number of images.
        epochs: passes over them.
        told_right: share of the turns that were told right since the last report, of images that
            it learned from.
    """

    base: Base
    images: int
    epochs: float
    told_right: float

    def line(self) -> str:
        """Describes the pretraining in one line."""
        return (
            f"pretraining: {self.epochs:g} passes over {self.images:,} images; at their end "
            f"{100 * self.told_right:.0f} % of the turns were told right"
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns the facts as JSON-compatible values for the card of the model."""
        return {
            "images": self.images,
            "epochs": self.epochs,
            "told_right": self.told_right,
            "line": self.line(),
        }


def pretrain(create: ModelFn, config: TrainerConfig, stage: TrainingStage) -> Pretrained:
    """Trains a model with the classes `TURNS` on the images of `train` and `unlabelled`.

    Labels are not used. A stopped pretraining resumes, and one that has ended is read from its
    checkpoint, which lies beside those of the training.

    Args:
        create: creates the model.
        config: options of the training.
        stage: the stage that follows.

    Returns:
        The weights, and how well the turns were told.

    Raises:
        ValueError: the replicas cannot share a batch.
        preemption.PreemptedError: a stop was requested; the state is saved.
    """
    if size := config.pretraining.batch_size:
        strategies.replica_share(
            "trainer.pretraining.batch_size", size, stage.strategy, config.parts
        )
    images = _every_image(config, stage.splits)
    run = _TurnsLoop(
        lambda body_dtype: create(body_dtype, len(TURNS)),
        _options(config),
        dataclasses.replace(stage.earlier(_STAGE, _STAGE), splits={features.TRAIN: images}),
    )
    run.restore()
    run.loop()
    model = run.finish()
    learned = Pretrained(
        base=base_of(_STAGE, model.learned_weights, TURNS),
        images=len(images),
        epochs=config.pretraining.epochs,
        told_right=run.history[-1]["train"]["accuracy"],
    )
    # None if an earlier process ended it.
    if run.last_event is not None:
        _PROGRESS.info("%s", learned.line())
    # Its images, copies of weights and graphs would otherwise last beside those of the training.
    del run, model
    gc.collect()
    return learned


def _every_image(config: TrainerConfig, splits: Mapping[str, ImageSet]) -> ImageSet:
    names = [features.TRAIN]
    if config.learns_unlabelled and features.UNLABELLED in splits:
        names.append(features.UNLABELLED)
    together = combine(splits, names, config)
    return ImageSet(together.images, np.zeros(len(together), np.int32))


def _options(config: TrainerConfig) -> TrainerConfig:
    """Returns the options of the pretraining: those of the training, but for the following."""
    pretraining, optimizer = config.pretraining, config.optimizer
    epochs = pretraining.epochs
    # A multiple, so that as many replicas can share it.
    size = config.batch_size * math.ceil(_BATCH / config.batch_size)
    return config.model_copy(
        update={
            "epochs": epochs,
            "batch_size": pretraining.batch_size or size,
            "evaluate_every_epochs": epochs / _REPORTS,
            # The curves of two trainings would mix.
            "tensorboard": False,
            "objective": config.objective.model_copy(
                update={"alpha": config.objective.alpha or 1.0}
            ),
            "semi_supervised": config.semi_supervised.model_copy(update={"enabled": False}),
            "optimizer": optimizer.model_copy(
                update={"warmup_epochs": min(optimizer.warmup_epochs, epochs / 4)}
            ),
        }
    )


class _TurnsStep(TrainingStep):
    """A step that turns each image of its batch and has the turns for labels."""

    def _prepare(self, noise: Noise, *images: Any) -> Batch:
        batch = super()._prepare(noise, *images)
        drawn = noise.uniform("turns", [shape_of(batch.clean)[0]])
        turns = tf.cast(drawn * float(len(TURNS)), tf.int32)
        augmented = batch.augmented
        return dataclasses.replace(
            batch,
            clean=turn(batch.clean, turns),
            labels=turns,
            # After the augmentation: a mirror image that was turned left looks turned right.
            augmented=None if augmented is None else turn(augmented, turns),
        )


class _TurnsLoop(TrainingLoop):
    step_type = _TurnsStep


def turn(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Turns images anticlockwise, each by its own number of right angles.

    Args:
        images: float32 [batch, side, side, channels].
        turns: int32 [batch], 0 to 3.

    Returns:
        float32 [batch, side, side, channels].
    """
    turned = images
    for count in range(1, len(TURNS)):
        chosen = tf.reshape(turns == count, [-1, 1, 1, 1])
        turned = tf.where(chosen, tf.image.rot90(images, count), turned)
    return turned
