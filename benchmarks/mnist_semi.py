"""MNIST with 100 labels and 58,900 images without: test error over draws of the labels.

`python -m benchmarks.mnist_semi --minutes 15 --seeds 1 2 3 4 5`
Each seed draws ten labelled images per class and initialises the network. Calibration uses 1,000
labelled images that nothing else sees.
"""

import argparse
import logging

import numpy as np

from benchmarks.image_sets import few_labels, mean_and_worst, mnist, record
from benchmarks.trainings import recipe, run_training, started, training_parser
from trainer.quality import evaluation
from trainer.quality.confidence_grid import expected_calibration_error

PER_CLASS = 10
MODEL, TRAINER = recipe(
    "conv_grey_few_labels", trainer={"evaluate_every_epochs": 100, "tensorboard": False}
)


def main() -> None:
    """Trains once per draw and prints the record."""
    arguments = _arguments()
    full, test = mnist(arguments.data)
    runs = []
    for seed in arguments.seeds:
        data = few_labels(full, PER_CLASS, calibration=1000, seed=seed)
        if arguments.steps:
            arguments.epochs = arguments.steps * TRAINER["batch_size"] / len(data["train"])
        trained = run_training(arguments, data, seed, MODEL, TRAINER)
        outputs = evaluation.Forward(trained.result.model.analyse, (28, 28, 1), 500)(test.images)
        probabilities = outputs["probabilities"]
        run = {
            "seed": seed,
            "steps": trained.result.steps,
            **trained.cost(),
            "error": float(np.mean(probabilities.argmax(-1) != test.labels)),
            "ece": expected_calibration_error(probabilities, test.labels),
            "elbo_grey": float(np.mean(outputs["elbo"])),
        }
        logging.info("%s", run)
        runs.append(run)
    summary = {
        "error": mean_and_worst([run["error"] for run in runs], worst=max),
        "ece": mean_and_worst([run["ece"] for run in runs], worst=max),
    }
    record(arguments, "mnist_semi", {**summary, "runs": runs})


def _arguments() -> argparse.Namespace:
    made = training_parser(__doc__.splitlines()[0], minutes=15.0)
    made.add_argument("--steps", type=int, default=0, help="instead of minutes or epochs")
    return started(made)


if __name__ == "__main__":
    main()
