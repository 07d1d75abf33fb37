"""Estimates what a run will cost on this machine, for `vaeline inspect`.

Ingest is extrapolated from a survey of the input; training from a few steps of the configured
model on random images.
"""

import logging
import os
import resource
import tempfile
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from components.image_example_gen.survey import RECORD_BYTES, InputSurvey
from pipeline.config import PipelineConfig
from trainer.backbone_config import NONE
from trainer.data import features

_PROBE_BATCHES: Final = 4
_PROBE_EPOCHS: Final = 3
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunEstimate:
    """Holds the expected cost of a run; validation, evaluation and push are not included.

    Attributes:
        images: Expected number of images with a label that are trained on.
        ingest_seconds: Time to read and check all images with the cores of this machine.
        training_seconds: Time of all training steps, without the start of TensorFlow.
        labelled_only_seconds: Time of the training without unlabelled images; 0 if it is off.
        images_per_second: Throughput of the training steps that were measured.
        memory_bytes: Peak memory of the training process.
        disk_bytes: Size of the stored images, and of the decoded ones where they exceed
            `trainer.memory_limit_mb`.
    """

    images: int
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
    account = survey.account
    cores = len(os.sched_getaffinity(0))
    trained = sum(account.by_split()[features.TRAIN].values())
    images = round(trained * survey.scale)
    rate = _measure_training(config, len(account.class_totals()))
    height, width, channels = config.image.shape
    decoded = round(images * height * width * channels)
    stored = survey.examples_bytes
    if config.input.store != "original":
        # A PNG of the model's pixels is hardly ever larger than these.
        every = account.examples.total() * survey.scale
        stored = min(stored, round(every * (height * width * channels + RECORD_BYTES)))
    training = config.trainer.epochs * images / rate
    limit = config.trainer.memory_limit_mb << 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return RunEstimate(
        images=images,
        ingest_seconds=survey.seconds * survey.scale / cores,
        training_seconds=training,
        labelled_only_seconds=0.0 if config.evaluation.labelled_only == "off" else training,
        images_per_second=rate,
        memory_bytes=peak + min(decoded, limit),
        disk_bytes=stored + (decoded if decoded > limit else 0),
    )


def _measure_training(config: PipelineConfig, num_classes: int) -> float:
    """Returns the throughput of training in images per second, from a few steps."""
    from trainer.data.input_pipeline import ImageSet
    from trainer.train import train

    shape = config.image.shape
    count = _PROBE_BATCHES * config.trainer.batch_size
    generator = np.random.default_rng(0)
    images = ImageSet(
        generator.integers(0, 256, (count, *shape), np.uint8),
        generator.integers(0, max(num_classes, 2), count).astype(np.int32),
    )
    # The last call counts; the first one includes tracing.
    settings = config.trainer.model_copy(
        update={"epochs": float(_PROBE_EPOCHS), "steps_per_call": _PROBE_BATCHES}
    )
    # Weights might have to be downloaded, and with them only the heads would learn at first.
    backbone = config.model.backbone.model_copy(update={"weights": NONE})
    with tempfile.TemporaryDirectory(prefix="vaeline-inspect-") as folder:
        result = train(
            model_config=config.model.model_copy(update={"backbone": backbone}),
            trainer_config=settings,
            data={features.TRAIN: images},
            image_shape=shape,
            num_classes=max(num_classes, 2),
            pixel_mean=[0.5] * shape[2],
            pixel_std=[0.25] * shape[2],
            workdir=folder,
            fit_scores=False,
        )
    _LOG.info("training probe: %.1f images/s over %d steps", result.images_per_sec, result.steps)
    return result.images_per_sec
