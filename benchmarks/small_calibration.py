"""What a temperature from few calibration images costs or gains on other images.

`python -m benchmarks.small_calibration --data DIR --seeds 1 2`
Trains small models on digits, MNIST and the CIFAR slice. Each of many draws of n images gives a
temperature, which answers 1,000 other images. `excess` is how much larger their -log p(y|x) is than
with the best temperature of all images, in nats; `ece` is their calibration error. Sides: no
temperature, the one that fits the draw best, and the trainer's, which has a prior.
"""

import argparse
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.image_sets import cifar, mnist, parser, record, split_off
from benchmarks.trainings import fit, recipe, started
from trainer.data.input_pipeline import ImageSet
from trainer.quality.calibration import fit_temperature
from trainer.quality.confidence_grid import expected_calibration_error
from trainer.quality.evaluation import log_softmax, negative_log_likelihood, predict_logits

_SIZES = (20, 50, 137, 400)
_OTHERS = 1000
_AUGMENTED = {"rotation": 10, "shift": 0.08, "zoom": 0.1, "shear": 0.1}
_TRAINER = {
    "batch_size": 64,
    "evaluate_every_epochs": 1000,
    "tensorboard": False,
    "optimizer": {"learning_rate": 2e-3, "schedule": "cosine", "ema_decay": 0.9},
}


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fits the temperature that minimises -log p(y|x) of float [n, K] and int [n], and no more."""
    return fit_temperature(logits, labels, spread=math.inf).value


SIDES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "none": lambda logits, labels: 1.0,
    "best_fit": best_temperature,
    "prior": lambda logits, labels: fit_temperature(logits, labels).value,
}


def main() -> None:
    """Trains the models, draws the images and prints the record."""
    arguments = _arguments()
    by_model = {}
    for seed in arguments.seeds:
        for name, data, epochs, model, trainer in _trainings(arguments, seed):
            logits, labels = _answers(data, seed, epochs, model, trainer)
            found = measure(logits, labels, draws=arguments.draws)
            by_model[f"{name}_{seed}"] = found
            logging.info("%s, seed %d: %s", name, seed, found)
    mean = {
        key: float(np.mean([found[key] for found in by_model.values()]))
        for key in next(iter(by_model.values()))
    }
    ratios = {
        f"prior_over_{side}_{size}": mean[f"excess_prior_{size}"] / mean[f"excess_{side}_{size}"]
        for side in ("none", "best_fit")
        for size in _SIZES
    }
    record(arguments, "small_calibration", {**mean, **ratios, "models": by_model})


def measure(logits: np.ndarray, labels: np.ndarray, *, draws: int) -> dict[str, float]:
    """Measures all sides on float [n, K] and int [n]; keys are measure, side and images."""
    best = best_temperature(logits, labels)
    found: dict[str, float] = {"accuracy": float((logits.argmax(axis=1) == labels).mean())}
    for size in _SIZES:
        draw = np.random.default_rng(size)
        results: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for _ in range(draws):
            order = draw.permutation(len(labels))
            few, others = order[:size], order[size : size + _OTHERS]
            least = negative_log_likelihood(logits[others] / best, labels[others])
            for side, fitted in SIDES.items():
                scaled = logits[others] / fitted(logits[few], labels[few])
                loss = negative_log_likelihood(scaled, labels[others])
                probabilities = np.exp(log_softmax(scaled))
                error = expected_calibration_error(probabilities, labels[others])
                results[side].append((loss - least, error))
        for side, pairs in results.items():
            excess, error = np.mean(pairs, axis=0).tolist()
            found |= {f"excess_{side}_{size}": excess, f"ece_{side}_{size}": error}
    return found


def _trainings(
    arguments: argparse.Namespace, seed: int
) -> Iterator[tuple[str, dict[str, ImageSet], float, dict[str, Any], dict[str, Any]]]:
    """Yields name, images, epochs, and options of model and trainer."""
    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    digits = ImageSet(pixels, bunch.target.astype(np.int32))
    augmented = {**_TRAINER, "augmentation": _AUGMENTED}
    yield "digits", _parts(digits, 900, seed), 40, {}, augmented
    full, _ = mnist(arguments.data)
    yield "mnist_1000", _parts(full, 1000, seed), 20, {}, augmented
    yield "mnist_500_plain", _parts(full, 500, seed), 60, {}, _TRAINER
    colour, _ = cifar(arguments.data)
    model, trainer = recipe(
        "conv_colour",
        model={"conv_width": 16},
        trainer={"evaluate_every_epochs": 1000, "tensorboard": False},
    )
    yield "cifar_3000", _parts(colour, 3000, seed), 8, model, trainer


def _parts(data: ImageSet, train: int, seed: int) -> dict[str, ImageSet]:
    """Draws `train`, 100 images that the trainer needs, and up to 3,000 `others`."""
    parts = split_off(data, {"train_few": train, "calibration": 100}, seed=seed)
    others = parts["train"].take(np.arange(min(3000, len(parts["train"]))))
    calibration = parts["calibration"]
    return {"train": parts["train_few"], "calibration": calibration, "others": others}


def _answers(
    data: dict[str, ImageSet],
    seed: int,
    epochs: float,
    model: dict[str, Any],
    trainer: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Trains, and returns the logits, float64 [n, K], and labels, int [n], of the others."""
    others = data.pop("others")
    trained = fit(data, seed, epochs, model, trainer).model
    logits = predict_logits(trained, others.images, 250)
    return logits.astype(np.float64), others.labels


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--draws", type=int, default=40, help="of the few images, per number")
    return started(made)


if __name__ == "__main__":
    main()
