"""Transfer between classes: a backbone trained on five classes learns five others from few images.

`python -m benchmarks.backbone --data DIR --seeds 1 2 3`

The backbone is trained on five classes of the CIFAR-10 slice, once, and its weights are read from
the saved model (`model.backbone.weights: model.keras`). Then, for each seed, `--images` of each of
the other five classes train the same network twice, in the same steps: with those weights, and from
random ones. Accuracy is that on all other images of these classes; `margin` is the gain by the
weights.
"""

import argparse
import logging
import pathlib
import tempfile
import time
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.cifar import TRAINER as CIFAR_TRAINER
from benchmarks.image_sets import cifar, mean_and_worst, parser, record
from benchmarks.trainings import fit, started
from trainer.data.input_pipeline import ImageSet
from trainer.quality.evaluation import Evaluator

_SIDE: Final = 64
"""The images of 32 pixels are enlarged to it, as the networks halve the resolution five times."""

MODEL: Final[dict[str, Any]] = {
    "encoder": "backbone",
    "decoder": "mlp",
    "decoder_scale": 4,
    "latent_size": 32,
    "observation": "discretized_logistic",
    "dropout": 0.2,
}
TRAINER: Final[dict[str, Any]] = {**CIFAR_TRAINER, "evaluate_every_epochs": 1000}
# A moving average over so few steps is mostly that of the first, which hurts random weights most.
_OPTIMIZER: Final = {**CIFAR_TRAINER["optimizer"], "warmup_epochs": 0, "ema_decay": 0}


def main() -> None:
    """Trains and prints the record."""
    arguments = _arguments()
    parts = cifar(arguments.data)
    first, second = (_classes(parts, half) for half in (range(5), range(5, 10)))
    with tempfile.TemporaryDirectory(prefix="bench-backbone-") as folder:
        weights, pretraining = pretrain(arguments, first, pathlib.Path(folder))
        runs = [compare(arguments, second, weights, seed) for seed in arguments.seeds]
    summary = {
        name: mean_and_worst([run[name] for run in runs])
        for name in ("margin", "finetuned", "scratch")
    }
    cost = {"core_minutes": time.process_time() / 60}
    record(arguments, "backbone", {"pretraining": pretraining, **summary, **cost, "runs": runs})


def pretrain(
    arguments: argparse.Namespace, data: ImageSet, folder: pathlib.Path
) -> tuple[str, dict[str, float]]:
    """Trains on the first five classes; returns the file of the model and what it took."""
    begun = time.monotonic()
    train, test = _parted(data, len(data) * 9 // 10 // 5)
    result = fit({"train": train}, 1, arguments.pretraining_epochs, _model(arguments), TRAINER)
    path = folder / "model.keras"
    result.model.save(path)
    accuracy = Evaluator(result.model, 250)(test)["accuracy"]
    return str(path), {"accuracy": accuracy, "minutes": (time.monotonic() - begun) / 60}


def compare(
    arguments: argparse.Namespace, data: ImageSet, weights: str, seed: int
) -> dict[str, float]:
    """Trains on few images of the other classes, with the weights and without."""
    train, test = _parted(data, arguments.images, seed)
    epochs = arguments.steps * arguments.batch / len(train)
    options = {
        **TRAINER,
        "batch_size": arguments.batch,
        "optimizer": {**_OPTIMIZER, "learning_rate": arguments.learning_rate},
    }
    run: dict[str, float] = {"seed": seed}
    for name, given in (("finetuned", weights), ("scratch", "none")):
        begun = time.monotonic()
        result = fit({"train": train}, seed, epochs, _model(arguments, given), options)
        run[name] = Evaluator(result.model, 250)(test)["accuracy"]
        run[f"{name}_minutes"] = (time.monotonic() - begun) / 60
    run["margin"] = run["finetuned"] - run["scratch"]
    logging.info("%s", run)
    return run


def _model(arguments: argparse.Namespace, weights: str = "none") -> dict[str, Any]:
    return {**MODEL, "backbone": {"name": arguments.name, "weights": weights}}


def _classes(parts: tuple[ImageSet, ImageSet], classes: range) -> ImageSet:
    """Returns the images of some classes, enlarged, with labels from 0."""
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    chosen = np.isin(labels, classes)
    enlarged = [cv2.resize(image, (_SIDE, _SIDE)) for image in images[chosen]]
    return ImageSet(np.stack(enlarged), labels[chosen] - classes.start)


def _parted(data: ImageSet, of_each: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Draws so many images of each class; returns them and the others."""
    order = np.random.default_rng(seed).permutation(len(data))
    of_class = [order[data.labels[order] == label] for label in np.unique(data.labels)]
    return (
        data.take(np.sort(np.concatenate([rows[:of_each] for rows in of_class]))),
        data.take(np.sort(np.concatenate([rows[of_each:] for rows in of_class]))),
    )


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--name", default="MobileNetV3Small", help="of keras.applications")
    made.add_argument("--images", type=int, default=20, help="of each class, to fine-tune")
    made.add_argument("--pretraining-epochs", type=float, default=20)
    made.add_argument("--steps", type=int, default=300, help="of each fine-tuning")
    made.add_argument("--batch", type=int, default=32, help="images per step of a fine-tuning")
    made.add_argument("--learning-rate", type=float, default=2e-3, help="of a fine-tuning")
    return started(made)


if __name__ == "__main__":
    main()
