"""MNIST with all labels: accuracy, calibration error and bound of the `conv` model.

`python -m benchmarks.mnist_supervised --minutes 10 --seeds 1 2 3`
The number of epochs follows from the minutes and a speed measured first, so that the schedule
ends with the time.
"""

import argparse
import logging
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.image_sets import mean_and_worst, mnist, parser, record, split_off
from trainer import evaluation
from trainer.config import ModelConfig, TrainerConfig
from trainer.examples import pixel_moments
from trainer.input_pipeline import ImageSet
from trainer.train import TrainResult, train

MODEL = {
    "encoder": "conv",
    "decoder": "mlp",
    "conv_width": 32,
    "feature_size": 128,
    "latent_size": 32,
    "decoder_hidden": (512, 512),
    "dropout": 0.3,
}
TRAINER = {
    "batch_size": 256,
    "evaluate_every_epochs": 2,
    "augmentation": {"rotation": 15, "zoom": 0.15, "shear": 0.15, "shift": 0.07},
    "objective": {"clean_share": 0.15, "binarise": True},
    "optimizer": {
        "learning_rate": 2e-3,
        "beta_2": 0.99,
        "warmup_epochs": 0.5,
        "schedule": "cosine",
        "ema_decay": 0.98,
        "ema_every": 8,
        "clip_norm": 5.0,
    },
    "tensorboard": False,
}


def fit(data: dict[str, ImageSet], seed: int, epochs: float, model: dict, trainer: dict) -> Any:
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
            num_classes=10,
            pixel_mean=mean,
            pixel_std=std,
            workdir=workdir,
        )


def epochs_for(data: dict[str, ImageSet], minutes: float, model: dict, trainer: dict) -> float:
    """Epochs that fit the minutes, by the speed of a short run."""
    speed = fit(data, 0, 60 * trainer["batch_size"] / len(data["train"]), model, trainer)
    # Evaluations, tracing and calibration take their part.
    return round(0.93 * minutes * 60 * speed.images_per_sec / len(data["train"]), 1)


def bound(result: TrainResult, test: ImageSet, count: int, samples: int) -> float:
    """Importance-weighted bound of binarised test digits on -log p(x), nats; less is better."""
    bounds = evaluation.importance_bound(
        result.model, test.images[:count], samples=samples, binarise=True
    )
    return -float(np.mean(bounds))


def main() -> None:
    """Trains once per seed and prints the record."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    full, test = mnist(arguments.data)
    runs = []
    for seed in arguments.seeds:
        data = split_off(full, {"validation": 1000, "calibration": 4000}, seed=seed)
        epochs = arguments.epochs or epochs_for(data, arguments.minutes, MODEL, TRAINER)
        started, cpu = time.monotonic(), time.process_time()
        result = fit(data, seed, epochs, MODEL, TRAINER)
        run = {
            "seed": seed,
            "epochs": epochs,
            "minutes": (time.monotonic() - started) / 60,
            "core_minutes": (time.process_time() - cpu) / 60,
            "images_per_sec": result.images_per_sec,
        }
        logits = evaluation.Forward(result.model.analyse, (28, 28, 1), 500)(test.images)
        measures = evaluation.Evaluator(result.model, 500)(test)
        run["accuracy"], run["elbo_grey"] = measures["accuracy"], measures["elbo"]
        run["ece"] = evaluation.expected_calibration_error(logits["probabilities"], test.labels)
        run["false_positive_rate"] = float(np.mean(logits["is_outlier"]))
        run["threshold_interval"] = result.calibration["thresholds"]["review"]["interval"]
        run["bound_nats"] = bound(result, test, arguments.bound_images, arguments.samples)
        logging.info("%s", run)
        runs.append(run)
    summary = {
        "accuracy": mean_and_worst([run["accuracy"] for run in runs]),
        "ece": mean_and_worst([run["ece"] for run in runs], worst=max),
        "bound_nats": mean_and_worst([run["bound_nats"] for run in runs], worst=max),
    }
    record(arguments, "mnist_supervised", {**summary, "runs": runs})


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--minutes", type=float, default=10.0, help="of training, per seed")
    made.add_argument("--epochs", type=float, help="instead of minutes")
    made.add_argument("--samples", type=int, default=500, help="k of the bound")
    made.add_argument("--bound-images", type=int, default=1000)
    return made.parse_args()


if __name__ == "__main__":
    main()
