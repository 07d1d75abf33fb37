"""Tiny data and configurations for the trainer's tests; also a program that trains on them.

`python tiny.py WORKDIR OUT` trains, prints each step and writes the weights to OUT, so that a test
can kill it on the way.
"""

import pathlib
import sys
from typing import Any

import keras
import numpy as np

from trainer.config import ImageConfig, ModelConfig, TrainerConfig
from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.optimization import preemption
from trainer.optimization.callbacks import TrainingProgress
from trainer.train import TrainResult, train

IMAGE = ImageConfig(height=12, width=10, channels=1)
SHAPE = IMAGE.shape
CLASSES = 3


def image_set(count: int, *, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> ImageSet:
    """Images of a bright bar whose place is the class, on noise: easy to learn."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count).astype(np.int32)
    images = draw.integers(0, 100, (count, *shape), dtype=np.uint8)
    width = shape[1] // CLASSES
    for image, label in zip(images, labels, strict=True):
        image[2:-2, label * width : label * width + width] += 150
    return ImageSet(images, labels)


def build(
    config: ModelConfig | None = None,
    shape: tuple[int, int, int] = SHAPE,
    classes: int = CLASSES,
    **options: str,
) -> VaeClassifier:
    """A model of the same weights at every call."""
    keras.utils.set_random_seed(3)
    channels = shape[2]
    return VaeClassifier(
        config=config or model_config(),
        image_shape=shape,
        num_classes=classes,
        pixel_mean=[0.4] * channels,
        pixel_std=[0.2] * channels,
        **options,
    )


def splits(count: int = 160) -> dict[str, ImageSet]:
    """A train, a validation and a calibration split."""
    return {
        "train": image_set(count),
        "validation": image_set(48, seed=1),
        "calibration": image_set(64, seed=2),
    }


def train_only(count: int = 160) -> dict[str, ImageSet]:
    """Just a train split: nothing is evaluated or calibrated."""
    return {"train": image_set(count)}


def model_config(**changes: Any) -> ModelConfig:
    """A model of a few thousand weights."""
    small = {
        "hidden": (16,),
        "decoder_hidden": (16,),
        "conv_width": 4,
        "feature_size": 8,
        "posterior_hidden": 8,
        "latent_size": 4,
        "neighbours": 3,
        "neighbour_bank": 32,
    }
    return ModelConfig.model_validate({**small, **changes})


def trainer_config(**changes: Any) -> TrainerConfig:
    """A few steps, everything chosen beforehand."""
    small = {
        "epochs": 3,
        "batch_size": 16,
        "evaluation_batch_size": 32,
        "precision": "float32",
        "xla": "off",
        "tensorboard": False,
        "importance_samples": 0,
    }
    return TrainerConfig.model_validate({**small, **changes})


def run(workdir: pathlib.Path | str, **changes: Any) -> TrainResult:
    """Trains on the tiny splits; `changes` replace arguments of `train`."""
    arguments: dict[str, Any] = {
        "model_config": model_config(),
        "trainer_config": trainer_config(),
        "data": splits(),
        "image_shape": SHAPE,
        "num_classes": CLASSES,
        "pixel_mean": [0.3],
        "pixel_std": [0.25],
        "workdir": str(workdir),
        "progress": lambda event: None,
        # Takes as long as the training, and does not change it.
        "fit_scores": False,
    }
    return train(**{**arguments, **changes})


RESUMED = {
    "epochs": 4,
    "steps_per_call": 3,
    "evaluate_every_epochs": 0.7,
    "augmentation": {"rotation": 10, "shift": 0.1},
    "optimizer": {"ema_decay": 0.9, "ema_every": 2, "schedule": "cosine", "clip_norm": 1.0},
    "checkpoints": {"every_secs": 0},
}


def resumed_run(
    workdir: pathlib.Path | str, trainer: dict[str, Any] | None = None, **changes: Any
) -> TrainResult:
    """The run that the tests interrupt; `trainer` replaces some of its options."""
    return run(
        workdir,
        model_config=model_config(encoder="conv", decoder="mlp", dropout=0.2),
        trainer_config=trainer_config(**{**RESUMED, **(trainer or {})}),
        **changes,
    )


def flat_weights(result: TrainResult) -> np.ndarray:
    """All learned weights as one vector."""
    weights = [np.asarray(w.value.numpy()) for w in result.model.learned_weights]
    return np.concatenate([w.reshape(-1) for w in weights])


def _say(event: TrainingProgress) -> None:
    sys.stdout.write(f"{event.step}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        finished = resumed_run(sys.argv[1], progress=_say)
    except preemption.PreemptedError:
        sys.exit(preemption.PREEMPTED_EXIT_CODE)
    np.save(sys.argv[2], flat_weights(finished))
