"""Estimates what a run will cost on this machine, for `vaeline inspect`.

Ingest is extrapolated from a survey of the input; training from a few steps of the configured
model on random images, as many of them without labels as in a step of the training.
"""

import logging
import resource
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from components.image_example_gen.survey import RECORD_BYTES, InputSurvey
from pipeline.config import PipelineConfig
from trainer.backbone_config import NONE
from trainer.config import TrainerConfig
from trainer.cores import usable_cores
from trainer.data import features

_PROBE_BATCHES: Final = 4
_PROBE_EPOCHS: Final = 3
_RUN_BYTES: Final = 750 << 20
"""What the process of a run needs at its peak beyond the measured steps: TFX, Beam, calibration,
export, Evaluator and report. Runs of four configurations needed 460 to 800 MiB."""
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunEstimate:
    """Holds the expected cost of a run; validation, evaluation and push are not included.

    Attributes:
        images: Expected number of images with a label that are trained on.
        unlabelled: Expected number of images without a label that are learned from.
        ingest_seconds: Time to read and check all images with the cores of this machine.
        training_seconds: Time of all training steps, those of `semi_supervised.starts` included,
            without the start of TensorFlow.
        labelled_only_seconds: Time of the training without unlabelled images; 0 if it is off.
        images_per_second: Labelled images per second in the training steps that were measured.
        memory_bytes: Peak memory of the run's process; ServingCheck has another one.
        disk_bytes: Size of the stored images, and of the decoded ones where they exceed
            `trainer.memory_limit_mb`.
    """

    images: int
    unlabelled: int
    ingest_seconds: float
    training_seconds: float
    labelled_only_seconds: float
    images_per_second: float
    memory_bytes: int
    disk_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Returns all attributes as JSON-compatible types."""
        return asdict(self)


def estimate_run(config: PipelineConfig, survey: InputSurvey) -> RunEstimate:
    """Measures some training steps and extrapolates them and the survey.

    Args:
        config: The configuration.
        survey: What was found in `config.input`.
    """
    cores = usable_cores()
    trainer = config.trainer
    splits = survey.account.by_split()
    images = _extrapolate(splits[features.TRAIN], survey)
    unlabelled = _extrapolate(splits[features.UNLABELLED], survey)
    if not trainer.learns_unlabelled:
        unlabelled = 0
    rate = _measure_training(config, survey, with_unlabelled=unlabelled > 0)
    training = _passes(trainer, unlabelled) * trainer.epochs * images / rate
    labelled_only = 0.0
    pretraining = trainer.pretraining.epochs
    teachers = trainer.count_teachers(unlabelled)
    if pretraining or teachers or config.evaluation.labelled_only != "off":
        alone = _measure_training(config, survey, with_unlabelled=False) if unlabelled else rate
        training += pretraining * (images + unlabelled) / alone
        training += teachers * trainer.epochs * images / alone
        if config.evaluation.labelled_only != "off":
            labelled_only = (trainer.epochs + pretraining) * images / alone
    height, width, channels = config.image.shape
    decoded = (images + unlabelled) * height * width * channels
    stored = survey.examples_bytes
    if config.input.store != "original":
        # A PNG of the model's pixels is hardly ever larger than these.
        every = survey.account.examples.total() * survey.scale
        stored = min(stored, round(every * (height * width * channels + RECORD_BYTES)))
    limit = trainer.memory_limit_mb << 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return RunEstimate(
        images=images,
        unlabelled=unlabelled,
        ingest_seconds=survey.seconds * survey.scale / cores,
        training_seconds=training,
        labelled_only_seconds=labelled_only,
        images_per_second=rate,
        memory_bytes=peak + _RUN_BYTES + min(decoded, limit),
        disk_bytes=stored + (decoded if decoded > limit else 0),
    )


def _extrapolate(classes: Mapping[str, int], survey: InputSurvey) -> int:
    return round(sum(classes.values()) * survey.scale)


def _passes(trainer: TrainerConfig, unlabelled: int) -> float:
    """Returns the steps over those of one training, whose first part several starts repeat."""
    return 1.0 + (trainer.count_starts(unlabelled) - 1) * trainer.semi_supervised.starts_share


def _measure_training(
    config: PipelineConfig, survey: InputSurvey, *, with_unlabelled: bool
) -> float:
    """Returns the throughput of training in labelled images per second, from a few steps."""
    from trainer.data.input_pipeline import ImageSet
    from trainer.train import train

    shape = config.image.shape
    num_classes = max(len(survey.account.class_totals()), 2)
    generator = np.random.default_rng(0)

    def draw(batch: int) -> np.ndarray:
        return generator.integers(0, 256, (_PROBE_BATCHES * batch, *shape), np.uint8)

    semi = config.trainer.semi_supervised
    pixels = draw(config.trainer.batch_size)
    labels = generator.integers(0, num_classes, len(pixels)).astype(np.int32)
    data = {features.TRAIN: ImageSet(pixels, labels)}
    if with_unlabelled:
        pixels = draw(semi.batch_size or config.trainer.batch_size)
        data[features.UNLABELLED] = ImageSet(pixels, np.full(len(pixels), -1, np.int32))
    # The last call counts; the first one includes tracing. One teacher is as good as several.
    few = {"starts": 1, "teachers": min(1, semi.teachers)}
    settings = config.trainer.model_copy(
        update={
            "epochs": float(_PROBE_EPOCHS),
            "steps_per_call": _PROBE_BATCHES,
            "semi_supervised": semi.model_copy(update=few),
            "pretraining": config.trainer.pretraining.model_copy(update={"epochs": 0.0}),
        }
    )
    # Weights might have to be downloaded, and with them only the heads would learn at first.
    backbone = config.model.backbone.model_copy(update={"weights": NONE})
    with tempfile.TemporaryDirectory(prefix="vaeline-inspect-") as folder:
        result = train(
            model_config=config.model.model_copy(update={"backbone": backbone}),
            trainer_config=settings,
            data=data,
            image_shape=shape,
            num_classes=num_classes,
            pixel_mean=[0.5] * shape[2],
            pixel_std=[0.25] * shape[2],
            workdir=folder,
            fit_scores=False,
        )
    _LOG.info("training probe: %.1f images/s over %d steps", result.images_per_sec, result.steps)
    return result.images_per_sec
