"""The CIFAR-10 slice in colour: accuracy and bits per dimension of the `conv` model.

`python -m benchmarks.cifar --data DIR --minutes 15`
8,000 images to train (500 of them for calibration), 2,000 to test, split by content hash.
"""

import argparse
import logging

import numpy as np

from benchmarks.image_sets import cifar, mean_and_worst, record, split_off
from benchmarks.trainings import measure, recipe, run_training, started, training_parser

CALIBRATION = {"calibration": 500}
"""What is taken from the images to train with, by split."""
MODEL, TRAINER = recipe(
    "conv_colour",
    trainer={
        "evaluate_every_epochs": 10,
        "augmentation": {"horizontal_flip": True},
        "tensorboard": False,
    },
)


def main() -> None:
    """Trains once per observation model and seed and prints the record."""
    arguments = _arguments()
    full, test = cifar(arguments.data)
    data = split_off(full, CALIBRATION, seed=0)
    runs = []
    for observation in arguments.observations:
        model = {**MODEL, "observation": observation}
        for seed in arguments.seeds:
            trained = run_training(arguments, data, seed, model, TRAINER)
            result = trained.result
            measures = measure(result.model, test)
            run = {
                "observation": observation,
                "seed": seed,
                **trained.cost(),
                "accuracy": measures["accuracy"],
                "bits_per_dimension": measures["bits_per_dimension"],
                "reconstruction_error": measures["reconstruction_error"],
                "ece": measures["ece"],
                "finite": all(
                    bool(np.isfinite(list(entry["train"].values())).all())
                    for entry in result.history
                ),
            }
            logging.info("%s", run)
            runs.append(run)
    accuracy = mean_and_worst([float(run["accuracy"]) for run in runs])
    ece = mean_and_worst([float(run["ece"]) for run in runs], worst=max)
    record(arguments, "cifar", {"accuracy": accuracy, "ece": ece, "runs": runs})


def _arguments() -> argparse.Namespace:
    made = training_parser(__doc__.splitlines()[0], minutes=15.0)
    made.add_argument(
        "--observations",
        nargs="+",
        default=["discretized_logistic"],
        help="observation models",
    )
    return started(made)


if __name__ == "__main__":
    main()
