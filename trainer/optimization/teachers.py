"""Trains classifiers with the labels alone, whose mean answers then teach the model.

`trainer/train.py` calls it. The mean of several classifiers is right more often than each of them,
and a model that learns it from images without labels comes close to it (Hinton, Vinyals and Dean
2015, "Distilling the Knowledge in a Neural Network"; Chen et al. 2020, "Big Self-Supervised Models
are Strong Semi-Supervised Learners"). Nothing follows from the model's own guesses.
"""

import dataclasses
import functools
import gc
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import TrainerConfig
from trainer.data import features
from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.model.weights import digest_arrays
from trainer.optimization import strategy as strategies
from trainer.optimization.loop import TrainingLoop
from trainer.optimization.noise import Noise
from trainer.optimization.objective import Batch
from trainer.optimization.stages import TrainingStage
from trainer.optimization.starts import SEED_STEP
from trainer.optimization.step import TrainingStep, to_float
from trainer.progress import PROGRESS_LOGGER
from trainer.quality.evaluation import predict_logits

_PROGRESS = logging.getLogger(PROGRESS_LOGGER)

_MOST_BYTES = 1 << 30
"""Largest table of answers, which lies on every device."""

BuildFn = Callable[[str], VaeClassifier]
"""Creates a model from the dtype policy of its bodies."""


@dataclasses.dataclass(frozen=True)
class Taught:
    """What the teachers say about the images without labels.

    Attributes:
        answers: mean probabilities, sharpened, float32 [images, K].
        teachers: number of teachers.
        agreement: share of the images to which all of them give the same class.
        digest: of the teachers' weights.
    """

    answers: np.ndarray
    teachers: int
    agreement: float
    digest: str

    def line(self) -> str:
        """Describes the teachers in one line."""
        return (
            f"teachers: {self.teachers} trainings with the labels alone; they give the same class "
            f"to {100 * self.agreement:.0f} % of {len(self.answers):,} images without labels"
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns the facts as JSON-compatible values for the card of the model."""
        return {
            "teachers": self.teachers,
            "images": len(self.answers),
            "agreement": self.agreement,
            "line": self.line(),
        }


def teach(
    build: BuildFn,
    config: TrainerConfig,
    stage: TrainingStage,
    *,
    base: str,
    num_classes: int,
) -> Taught:
    """Trains the teachers and asks them about the images without labels.

    A stopped teacher resumes, and one that has ended is read from its checkpoint, which lies beside
    those of the training.

    Args:
        build: creates a model.
        config: options of the training; a teacher's are the same, but for its seed and without
            unlabelled images.
        stage: the stage that follows.
        base: digests of the weights that every model starts from; empty for a cold start.
        num_classes: number of classes K.

    Returns:
        Their answers, in the order of the unlabelled split.

    Raises:
        ValueError: several workers would have to share the answers, or these are too many.
        preemption.PreemptedError: a stop was requested; the state is saved.
    """
    unlabelled = stage.splits[features.UNLABELLED]
    count = config.count_teachers(len(unlabelled))
    if strategies.is_clustered(stage.strategy):
        raise ValueError(
            "trainer.semi_supervised.teachers: several workers can't share their answers; set it "
            "to 0, or train on one"
        )
    _check_size(len(unlabelled), num_classes)
    labelled = {name: data for name, data in stage.splits.items() if name != features.UNLABELLED}
    digests, sums = [], np.zeros([len(unlabelled), num_classes], np.float32)
    first, agreed = None, np.ones(len(unlabelled), bool)
    for number in range(1, count + 1):
        own = stage.earlier(f"teacher-{number}", f"teacher {number} of {count}")
        run = TrainingLoop(
            build,
            _teacher_options(config, number),
            dataclasses.replace(own, splits=labelled),
            base,
        )
        run.restore()
        run.loop()
        model = run.finish()
        digests.append(digest_arrays(weight.value.numpy() for weight in model.learned_weights))
        found = _answers(model, unlabelled, config.evaluation_batch_size)
        sums += found
        classes = found.argmax(axis=-1)
        first = classes if first is None else first
        agreed &= classes == first
        is_new = run.last_event is not None
        # Its images, copies of weights and graphs would otherwise last beside those of the next.
        del run, model
        gc.collect()
    taught = Taught(
        answers=_sharpened(sums, config.semi_supervised.teaching_temperature),
        teachers=count,
        agreement=float(agreed.mean()),
        digest="+".join(digests),
    )
    if is_new:
        _PROGRESS.info("%s", taught.line())
    return taught


class TaughtLoop(TrainingLoop):
    """Trains a model that learns the labels, and from the other images what its teachers say.

    Args:
        build: see `TrainingLoop`.
        config: see `TrainingLoop`.
        stage: see `TrainingLoop`.
        base: see `TrainingLoop`.
        taught: the teachers' answers.
    """

    def __init__(
        self,
        build: BuildFn,
        config: TrainerConfig,
        stage: TrainingStage,
        base: str = "",
        *,
        taught: Taught,
    ) -> None:
        self.step_type = functools.partial(_TaughtStep, answers=taught.answers)
        images = stage.splits[features.UNLABELLED].images
        # The step finds an image's answer by its number.
        numbered = ImageSet(images, np.arange(len(images), dtype=np.int32))
        semi = config.semi_supervised.model_copy(update={"include_train": False})
        super().__init__(
            build,
            config.model_copy(update={"semi_supervised": semi}),
            dataclasses.replace(stage, splits={**stage.splits, features.UNLABELLED: numbered}),
            base,
        )


class _TaughtStep(TrainingStep):
    """A step whose unlabelled images come with the answers of the teachers."""

    def __init__(self, *, answers: np.ndarray, **options: Any) -> None:
        self._answers = tf.constant(answers)
        super().__init__(**options)

    def _prepare(
        self, noise: Noise, rows: list[tuple[tf.Tensor, ...]], resident: list[tuple[Any, ...]]
    ) -> Batch:
        batch = super()._prepare(noise, rows, resident)
        images, numbers = self._feeds[1].batch(rows[1], resident[1], noise.replica)
        strong = batch.strong
        if strong is None:
            strong = to_float(images)
            if self._config.augmentation.enabled:
                strong = self._changed(noise, strong, self._config.augmentation, view="strong")
        taught = tf.gather(self._answers, numbers)
        return dataclasses.replace(batch, strong=strong, taught=taught)


def _teacher_options(config: TrainerConfig, number: int) -> TrainerConfig:
    return config.model_copy(
        update={
            "seed": (config.seed + number * SEED_STEP) % 2**31,
            # The curves of several trainings would mix.
            "tensorboard": False,
            "semi_supervised": config.semi_supervised.model_copy(update={"enabled": False}),
        }
    )


def _answers(model: VaeClassifier, images: ImageSet, batch_size: int) -> np.ndarray:
    """Returns p(y|x) of each image, float32 [n, K]."""
    return tf.nn.softmax(predict_logits(model, images.images, batch_size)).numpy()


def _sharpened(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Sharpens rows of [n, K] that need not add up to 1 (Berthelot et al. 2019, eq. 7)."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) / np.float32(temperature)
    return tf.nn.softmax(logits).numpy()


def _check_size(images: int, classes: int) -> None:
    size = 4 * images * classes
    if size > _MOST_BYTES:
        raise ValueError(
            f"trainer.semi_supervised.teachers: the answers to {images:,} images in {classes:,} "
            f"classes take {size / 2**30:.1f} GiB on every device; give fewer images without "
            "labels, or set it to 0"
        )
