"""Outliers of an MNIST model: AUROC of the one score that calibration has chosen.

`python -m benchmarks.outliers --minutes 10 --seeds 1`
Score, scale and threshold are fixed before any of these outliers is made: the calibration chooses
by its own synthetic kinds (`trainer/quality/synthetic_outliers.py`), none of which is here.
"""

import argparse
import functools
import logging
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from benchmarks.image_sets import cifar, mean_and_worst, mnist, record, split_off
from benchmarks.mnist_supervised import MODEL, TRAINER
from benchmarks.trainings import run_training, started, training_parser
from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.quality.calibration import auroc
from trainer.quality.evaluation import Forward
from trainer.train import TrainResult


def strokes(count: int, draw: np.random.Generator) -> np.ndarray:
    """Three random bent strokes, as thick and soft as a pen's: letters of no alphabet."""
    images = np.zeros((count, 112, 112), np.uint8)
    for image in images:
        for _ in range(3):
            points = draw.integers(20, 92, (4, 2))
            along = np.linspace(0, 1, 30)[:, np.newaxis]
            curve = sum(
                weight * (1 - along) ** (3 - power) * along**power * point
                for power, (weight, point) in enumerate(zip((1, 3, 3, 1), points, strict=True))
            )
            cv2.polylines(image, [np.int32(curve)], False, 255, thickness=9)
    small = [cv2.resize(image, (28, 28), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small)[..., np.newaxis]


def outlier_sets(digits: ImageSet, colour: ImageSet, seed: int) -> dict[str, np.ndarray]:
    """Images of no class, uint8 [n, 28, 28, 1] by kind."""
    draw = np.random.default_rng([seed, 7])
    images = digits.images
    grey = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in colour.images])
    small = np.stack([cv2.resize(image, (28, 28), interpolation=cv2.INTER_AREA) for image in grey])
    # A quarter turn leaves 0, 1 and 8 digits or nearly so; half a turn also 6 and 9.
    quarter = images[~np.isin(digits.labels, (0, 1, 8))]
    half = images[~np.isin(digits.labels, (0, 1, 6, 8, 9))]
    shades = draw.integers(0, 256, (len(images), 1, 1, 1), dtype=np.uint8)
    return {
        "cifar_grey": small[..., np.newaxis],
        "rotated_90": np.rot90(quarter, axes=(1, 2)),
        "rotated_90_all": np.rot90(images, axes=(1, 2)),
        "rotated_180": np.rot90(half, 2, axes=(1, 2)),
        "inverted": 255 - images,
        "noise": draw.integers(0, 256, images.shape, dtype=np.uint8),
        "blank": np.broadcast_to(shades, images.shape),
        "strokes": strokes(len(images), draw),
    }


def all_scores(model: VaeClassifier, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
    """The candidates, and the outlier score itself as `score`."""
    return {**model.outlier_terms(pixels), "score": model.analyse(pixels)["outlier_score"]}


def measured(
    result: TrainResult, good: np.ndarray, outliers: dict[str, np.ndarray]
) -> dict[str, Any]:
    """AUROC of all candidates and of the chosen score, and the rate of the threshold.

    Args:
        result: a training whose score is calibrated.
        good: test images of the model's classes, uint8 [n, height, width, channels].
        outliers: images of no class by kind.

    Returns:
        `auroc` of the score by kind, `terms` by kind and candidate, and values for the record.
    """
    model = result.model
    score = Forward(functools.partial(all_scores, model), model.image_shape, 250)
    known = score(good)
    terms = {
        kind: {name: auroc(known[name], values) for name, values in score(images).items()}
        for kind, images in outliers.items()
    }
    threshold = result.calibration["thresholds"]["review"]
    return {
        "chosen": result.calibration["outlier_score"]["chosen"],
        "auroc": {kind: values["score"] for kind, values in terms.items()},
        "terms": terms,
        "false_positive_rate": float(np.mean(known["score"] > threshold["score"])),
        "stated_interval": threshold["interval"],
    }


def main() -> None:
    """Trains once per seed, measures every kind and prints the record."""
    arguments = _arguments()
    full, test = mnist(arguments.data)
    _, colour = cifar(arguments.data)
    few = ImageSet(test.images[:2000], test.labels[:2000])
    runs = []
    for seed in arguments.seeds:
        data = split_off(full, {"validation": 1000, "calibration": 4000}, seed=seed)
        trained = run_training(arguments, data, seed, MODEL, TRAINER)
        found = measured(trained.result, test.images, outlier_sets(few, colour, seed))
        # With all digits, 0, 1 and 8 are no outliers: shown, not counted.
        counted = [value for kind, value in found["auroc"].items() if kind != "rotated_90_all"]
        run = {
            "seed": seed,
            **trained.cost(),
            "mean_auroc": float(np.mean(counted)),
            "least_auroc": float(min(counted)),
            **found,
        }
        logging.info("%s", {key: value for key, value in run.items() if key != "terms"})
        runs.append(run)
    summary = {
        "mean_auroc": mean_and_worst([float(run["mean_auroc"]) for run in runs]),
        "least_auroc": mean_and_worst([float(run["least_auroc"]) for run in runs]),
    }
    record(arguments, "outliers", {**summary, "runs": runs})


def _arguments() -> argparse.Namespace:
    return started(training_parser(__doc__.splitlines()[0], minutes=10.0))


if __name__ == "__main__":
    main()
