"""The `conv` model on a GPU: speed, memory and losses beside the CPU's.

`python -m benchmarks.gpu` trains at 28, 32, 64 and 128 pixels with mixed precision on and off, and
compares 20 losses in float32 with those of the CPU. Without a GPU it says so and does nothing.
"""

import argparse
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.image_sets import mnist, parser, record
from benchmarks.mnist_supervised import MODEL, TRAINER
from trainer.config import ModelConfig, TrainerConfig
from trainer.data.input_pipeline import ImageSet
from trainer.train import TrainResult, train

BATCH = 256


def resized(data: ImageSet, side: int, count: int) -> ImageSet:
    """Digits of another size."""
    images = tf.image.resize(data.images[:count], [side, side], antialias=True)
    return ImageSet(tf.cast(tf.round(images), tf.uint8).numpy(), data.labels[:count])


def run(data: ImageSet, steps: int, precision: str, **options: Any) -> TrainResult:
    """Trains some steps without XLA."""
    config = {
        **TRAINER,
        "optimizer": {"clip_norm": 5.0},
        "batch_size": BATCH,
        "epochs": steps * BATCH / len(data),
        "precision": precision,
        "xla": "off",
        "evaluate_every_epochs": 1000,
        **options,
    }
    with tempfile.TemporaryDirectory() as workdir:
        return train(
            model_config=ModelConfig.model_validate(MODEL),
            trainer_config=TrainerConfig.model_validate(config),
            data={"train": data},
            image_shape=data.images.shape[1:],
            num_classes=10,
            pixel_mean=[0.13],
            pixel_std=[0.31],
            workdir=workdir,
            strategy=tf.distribute.get_strategy(),
        )


def curve(data: ImageSet, device: str) -> np.ndarray:
    """Losses of 20 steps on a device."""
    with tf.device(device):
        result = run(data, 20, "float32", evaluate_every_epochs=BATCH / len(data))
    return np.array([entry["train"]["loss"] for entry in result.history])


def main() -> None:
    """Measures and prints the record."""
    arguments = _arguments()
    if not tf.config.list_physical_devices("GPU"):
        record(arguments, "gpu", {"skipped": "this machine has no GPU"})
        return
    full, _ = mnist(arguments.data)
    rows = []
    for side in (28, 32, 64, 128):
        data = resized(full, side, 8192)
        for precision in ("float32", "bfloat16"):
            tf.config.experimental.reset_memory_stats("GPU:0")
            result = run(data, arguments.steps, precision)
            peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
            rows.append(
                {"pixels": side, "precision": precision, "peak_bytes": peak,
                 "images_per_sec": result.images_per_sec}
            )  # fmt: skip
    small = resized(full, 28, 8192)
    difference = np.abs(curve(small, "GPU:0") - curve(small, "CPU:0")).max()
    record(arguments, "gpu", {"rows": rows, "largest_loss_difference": float(difference)})


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--steps", type=int, default=300)
    return made.parse_args()


if __name__ == "__main__":
    main()
