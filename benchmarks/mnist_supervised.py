"""MNIST with all labels: accuracy, calibration error and bound of the `conv` model.

`python -m benchmarks.mnist_supervised --minutes 10 --seeds 1 2 3`
"""

import argparse
import logging
from typing import Any

import numpy as np

from benchmarks.image_sets import mean_and_worst, mnist, record, split_off
from benchmarks.trainings import recipe, run_training, started, training_parser
from trainer.data.input_pipeline import ImageSet
from trainer.quality import evaluation
from trainer.quality.confidence_grid import expected_calibration_error
from trainer.quality.importance import bound_of_images
from trainer.train import TrainResult

MODEL, TRAINER = recipe(
    "conv_grey",
    # The bound is compared with that of others, which is of black and white pixels.
    trainer={
        "evaluate_every_epochs": 2,
        "objective": {"binarise": True, "bound": "importance", "samples": 5},
        "tensorboard": False,
    },
)


def bound(result: TrainResult, test: ImageSet, count: int, samples: int) -> float:
    """Importance-weighted bound of binarised test digits on -log p(x), nats; less is better."""
    bounds, _ = bound_of_images(result.model, test.images[:count], samples=samples, binarise=True)
    return -float(np.mean(bounds))


def main() -> None:
    """Trains once per seed and prints the record."""
    arguments = _arguments()
    full, test = mnist(arguments.data)
    runs: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        data = split_off(full, {"validation": 1000, "calibration": 4000}, seed=seed)
        trained = run_training(arguments, data, seed, MODEL, TRAINER)
        result = trained.result
        logits = evaluation.Forward(result.model.analyse, (28, 28, 1), 500)(test.images)
        measures = evaluation.Evaluator(result.model, 500)(test)
        run = {
            "seed": seed,
            **trained.cost(),
            "accuracy": measures["accuracy"],
            "elbo_grey": measures["elbo"],
            "ece": expected_calibration_error(logits["probabilities"], test.labels),
            "false_positive_rate": float(np.mean(logits["is_outlier"])),
            "threshold_interval": result.calibration["thresholds"]["review"]["interval"],
            "bound_nats": bound(result, test, arguments.bound_images, arguments.samples),
        }
        logging.info("%s", run)
        runs.append(run)
    summary = {
        "accuracy": mean_and_worst([run["accuracy"] for run in runs]),
        "ece": mean_and_worst([run["ece"] for run in runs], worst=max),
        "bound_nats": mean_and_worst([run["bound_nats"] for run in runs], worst=max),
    }
    record(arguments, "mnist_supervised", {**summary, "runs": runs})


def _arguments() -> argparse.Namespace:
    made = training_parser(__doc__.splitlines()[0], minutes=10.0)
    made.add_argument("--samples", type=int, default=500, help="k of the bound")
    made.add_argument("--bound-images", type=int, default=1000)
    return started(made)


if __name__ == "__main__":
    main()
