"""Training speed beside a bare loop over arrays in memory, in the same run.

`python -m benchmarks.train_speed --kind mlp` (batch 128, against a bare Keras `fit`, plain and
with XLA) and `--kind conv` (batch 256, against a bare loop over the same compiled step).
Both sides alternate; each side's best counts. `--pixels` gives other image sizes, for GPUs.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import mnist_supervised
from benchmarks.image_sets import mnist, parser, record
from trainer.config import ModelConfig, TrainerConfig
from trainer.data.augmentation import augment
from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.optimization import objective
from trainer.optimization.noise import Noise
from trainer.optimization.optimizer import Adam, clip, learning_rate
from trainer.train import train

OPTIMIZER = {"clip_norm": 5.0, "ema_decay": 0.98, "ema_every": 8}
MLP = {"hidden": (512,), "decoder_hidden": (512,), "latent_size": 16}


def bare_keras(data: ImageSet, epochs: int, **compile_options: Any) -> Callable[[], float]:
    """A Keras model of the `mlp` setting under `fit`, on float images in memory: images/s."""
    images = data.images.reshape(len(data), -1).astype(np.float32) / 255.0

    class Vae(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.body = keras.layers.Dense(512, "relu")
            self.mean = keras.layers.Dense(16)
            self.log_variance = keras.layers.Dense(16)
            self.head = keras.layers.Dense(10)
            self.hidden = keras.layers.Dense(512, "relu")
            self.pixels = keras.layers.Dense(784)
            self.noise = keras.random.SeedGenerator(1)

        def call(self, inputs: Any) -> Any:
            features = self.body(inputs)
            mean, log_variance = self.mean(features), self.log_variance(features)
            noise = keras.random.normal(keras.ops.shape(mean), seed=self.noise)
            latent = mean + keras.ops.exp(0.5 * log_variance) * noise
            kl = 0.5 * keras.ops.sum(
                mean**2 + keras.ops.exp(log_variance) - 1 - log_variance, axis=-1
            )
            self.add_loss(keras.ops.mean(kl) / 784)
            return self.head(features), self.pixels(self.hidden(latent))

    model = Vae()
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=[
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            keras.losses.BinaryCrossentropy(from_logits=True),
        ],
        **compile_options,
    )
    targets = (data.labels, images)
    model.fit(images[:12_800], tuple(t[:12_800] for t in targets), batch_size=128, verbose=0)

    def run() -> float:
        started = time.monotonic()
        model.fit(images, targets, batch_size=128, epochs=epochs, verbose=0)
        return epochs * len(data) / (time.monotonic() - started)

    return run


def bare_step(
    data: ImageSet, steps: int, model_options: dict, options: dict
) -> Callable[[], float]:
    """The same loss, update and augmentation in one compiled step, fed arrays: images/s."""
    config = TrainerConfig.model_validate(options)
    model = VaeClassifier(
        config=model_options, image_shape=data.images.shape[1:], num_classes=10,
        pixel_mean=[0.13], pixel_std=[0.31],
    )  # fmt: skip
    loss = objective.Objective(model, config.objective, config.semi_supervised)
    variables = [weight.value for weight in model.trainable_variables]
    adam = Adam(config.optimizer, variables)
    schedule = objective.ScheduledWeights(tf.constant(1.0), tf.constant(1.0))

    @tf.function(autograph=False)
    def step(images: tf.Tensor, labels: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        noise = Noise(1, number)
        clean = tf.cast(images, tf.float32) / 255.0
        changed = augment(clean, config.augmentation, noise)
        with tf.GradientTape() as tape:
            value, _ = loss(objective.Batch(clean, labels, changed), noise, schedule)
        rate = learning_rate(config.optimizer, number, total_steps=1000, steps_per_epoch=200.0)
        gradients, _ = clip(config.optimizer, tape.gradient(value, variables))
        adam.apply(gradients, number, rate)
        return value

    size = config.batch_size

    def run_steps(count: int) -> None:
        for i in range(count):
            start = (i * size) % (len(data) - size)
            step(data.images[start : start + size], data.labels[start : start + size],
                 tf.constant(i))  # fmt: skip

    run_steps(3)

    def run() -> float:
        started = time.monotonic()
        run_steps(steps)
        return steps * size / (time.monotonic() - started)

    return run


def ours(data: ImageSet, epochs: float, model: dict, options: dict) -> Callable[[], float]:
    """`train` as the pipeline calls it: images/s over all calls but the first."""

    def run() -> float:
        marks: list[tuple[int, float]] = []
        with tempfile.TemporaryDirectory() as workdir:
            train(
                model_config=ModelConfig.model_validate(model),
                trainer_config=TrainerConfig.model_validate(
                    {**options, "epochs": epochs, "evaluate_every_epochs": 1000}
                ),
                data={"train": data},
                image_shape=data.images.shape[1:],
                num_classes=10,
                pixel_mean=[0.13] * data.images.shape[-1],
                pixel_std=[0.31] * data.images.shape[-1],
                workdir=workdir,
                progress=lambda event: marks.append((event.step, time.monotonic())),
            )
        (first, started), (last, ended) = marks[0], marks[-2]
        return (last - first) * int(options["batch_size"]) / (ended - started)

    return run


def main() -> None:
    """Measures both sides in turn and prints the record."""
    arguments = _arguments()
    full, _ = mnist(arguments.data)
    data = full
    if arguments.pixels != 28:
        side = arguments.pixels
        resized = tf.image.resize(full.images[:8192], [side, side]).numpy().astype(np.uint8)
        data = ImageSet(resized, full.labels[:8192])
    sides: dict[str, Callable[[], float]] = {}
    if arguments.kind == "mlp":
        options: dict[str, Any] = {
            "batch_size": 128,
            "tensorboard": False,
            "precision": "float32",
        }
        epochs = arguments.scale
        sides["bare"] = bare_keras(data, max(1, round(epochs)), jit_compile=False)
        sides["bare_xla"] = bare_keras(
            data, max(1, round(epochs)), jit_compile=True, steps_per_execution=20
        )
        sides["ours"] = ours(data, epochs, MLP, {**options, "xla": "off"})
        sides["ours_xla"] = ours(data, epochs, MLP, {**options, "xla": "on"})
    else:
        options = {
            **mnist_supervised.TRAINER,
            "optimizer": OPTIMIZER,
            "precision": "float32",
            "xla": "off",
        }
        model = mnist_supervised.MODEL
        steps = max(20, round(arguments.scale * len(data) / 256))
        sides["bare"] = bare_step(data, steps, model, options)
        sides["ours"] = ours(data, steps * 256 / len(data), model, options)
        mixed = {**options, "precision": "bfloat16"}
        sides["ours_bfloat16"] = ours(data, steps * 256 / len(data), model, mixed)
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, run in sides.items():
            speeds[name].append(run())
    best = {name: max(values) for name, values in speeds.items()}
    bare = max(value for name, value in best.items() if name.startswith("bare"))
    mine = max(value for name, value in best.items() if name.startswith("ours"))
    memory = {
        device.name: tf.config.experimental.get_memory_info(device.name.split("e:", 1)[1])["peak"]
        for device in tf.config.list_logical_devices("GPU")
    }
    record(
        arguments,
        f"train_speed_{arguments.kind}",
        {"images_per_sec": best, "all": speeds, "ratio": mine / bare, "gpu_peak_bytes": memory},
    )


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--kind", choices=("mlp", "conv"), default="mlp")
    made.add_argument("--rounds", type=int, default=3, help="turns of each side")
    made.add_argument("--scale", type=float, default=1.0, help="epochs of each turn")
    made.add_argument("--pixels", type=int, default=28, help="side of the images")
    return made.parse_args()


if __name__ == "__main__":
    main()
