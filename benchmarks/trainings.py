"""What the benchmarks of training share: arguments, the length of a run, and the run itself.

The number of epochs follows from the minutes and a speed measured first, so that the schedule ends
with the time.
"""

import argparse
import dataclasses
import logging
import tempfile
import time
from typing import Any

from benchmarks.image_sets import parser
from trainer.config import ModelConfig, TrainerConfig
from trainer.data.examples import pixel_moments
from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.quality.confidence_grid import grid_of
from trainer.quality.evaluation import Evaluator, Forward
from trainer.recipes import apply_recipe
from trainer.train import TrainResult, train


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training and what it took.

    Attributes:
        result: what `train` gave.
        epochs: of the training.
        minutes: wall time, calibration included.
        core_minutes: processor time.
    """

    result: TrainResult
    epochs: float
    minutes: float
    core_minutes: float

    def cost(self) -> dict[str, float]:
        """What the training took, for the record of its run."""
        return {
            "epochs": self.epochs,
            "minutes": self.minutes,
            "core_minutes": self.core_minutes,
            "images_per_sec": self.result.images_per_sec,
        }


def recipe(
    name: str, *, model: dict[str, Any] | None = None, trainer: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of model and trainer: those given, and a recipe's for all others."""
    own = {"recipe": name, "model": model or {}, "trainer": trainer or {}}
    filled = apply_recipe(own)
    return filled["model"], filled["trainer"]


def training_parser(description: str, *, minutes: float) -> argparse.ArgumentParser:
    """Arguments of a benchmark that trains: `--minutes`, or `--epochs`.

    Args:
        description: its first line.
        minutes: the default.
    """
    made = parser(description)
    made.add_argument("--minutes", type=float, default=minutes, help="of training, per run")
    made.add_argument("--epochs", type=float, help="instead of minutes")
    return made


def started(made: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line and lets the trainings say how far they are."""
    arguments = made.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return arguments


def run_training(
    arguments: argparse.Namespace,
    data: dict[str, ImageSet],
    seed: int,
    model: dict[str, Any],
    trainer: dict[str, Any],
) -> Trained:
    """Trains for the epochs or the minutes of the command line."""
    epochs = arguments.epochs or _epochs_for(data, arguments.minutes, model, trainer)
    begun, cpu = time.monotonic(), time.process_time()
    result = fit(data, seed, epochs, model, trainer)
    return Trained(
        result,
        epochs,
        minutes=(time.monotonic() - begun) / 60,
        core_minutes=(time.process_time() - cpu) / 60,
    )


def fit(
    data: dict[str, ImageSet],
    seed: int,
    epochs: float,
    model: dict[str, Any],
    trainer: dict[str, Any],
) -> TrainResult:
    """Trains in a new folder."""
    mean, std = pixel_moments(data["train"])
    optimizer = {**trainer["optimizer"]}
    optimizer["warmup_epochs"] = min(optimizer.get("warmup_epochs", 0), epochs / 4)
    with tempfile.TemporaryDirectory() as workdir:
        return train(
            model_config=ModelConfig.model_validate(model),
            trainer_config=TrainerConfig.model_validate(
                {**trainer, "seed": seed, "epochs": epochs, "optimizer": optimizer}
            ),
            data=data,
            image_shape=data["train"].images.shape[1:],
            num_classes=int(data["train"].labels.max()) + 1,
            pixel_mean=mean,
            pixel_std=std,
            workdir=workdir,
        )


def measure(model: VaeClassifier, data: ImageSet, batch_size: int = 250) -> dict[str, float]:
    """Returns `Evaluator`'s measures of labelled images, and their calibration error.

    `ece` is the error; `ece_by_chance` and `ece_by_chance_q95` are what a perfectly calibrated
    model with the same confidences has, in the mean and at most in 95 of 100 test sets.
    """
    outputs = Forward(model.analyse, data.images.shape[1:], batch_size)(data.images)
    grid = grid_of(outputs["probabilities"], data.labels)
    chance = grid.chance_error()
    return {
        **Evaluator(model, batch_size)(data),
        "ece": grid.calibration_error(),
        "ece_by_chance": chance.mean,
        "ece_by_chance_q95": chance.high,
    }


def _epochs_for(
    data: dict[str, ImageSet], minutes: float, model: dict[str, Any], trainer: dict[str, Any]
) -> float:
    """Epochs that fit the minutes, by the speed of a short run."""
    speed = fit(data, 0, 60 * trainer["batch_size"] / len(data["train"]), model, trainer)
    # Evaluations, tracing and calibration take their part.
    return round(0.93 * minutes * 60 * speed.images_per_sec / len(data["train"]), 1)
