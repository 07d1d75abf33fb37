"""The CIFAR-10 slice with 400 labels: accuracy with the images without labels, and without them.

`python -m benchmarks.cifar_semi --data DIR --seeds 1`
Each seed draws 40 labelled images per class; 6,800 images are left without. Both models learn the
classes in the same number of steps with the same augmentation. One of them has learned to tell the
turns of all 7,200 images before, and learns what its teachers say about the 6,800. Calibration uses
800 labelled images that nothing else sees.
"""

import argparse
import logging
from typing import Any

from benchmarks.image_sets import cifar, few_labels, mean_and_worst, record
from benchmarks.trainings import recipe, run_training, started, training_parser
from trainer.quality.evaluation import Evaluator

PER_CLASS = 40
MODEL, TRAINER = recipe(
    "conv_colour_few_labels",
    trainer={
        "evaluate_every_epochs": 1000,
        "augmentation": {"horizontal_flip": True},
        "tensorboard": False,
    },
)
BATCH = TRAINER["batch_size"]


def main() -> None:
    """Trains two models per draw of the labels and prints the record."""
    arguments = _arguments()
    full, test = cifar(arguments.data)
    runs = []
    for seed in arguments.seeds:
        data = few_labels(full, PER_CLASS, calibration=800, seed=seed)
        arguments.epochs = arguments.steps * BATCH / len(data["train"])
        run: dict[str, Any] = {"seed": seed}
        for name in ("with_unlabelled", "labelled_only"):
            trainer = TRAINER
            if name == "labelled_only":
                del data["unlabelled"]
                trainer = {**TRAINER, "pretraining": {}}
            trained = run_training(arguments, data, seed, MODEL, trainer)
            measures = Evaluator(trained.result.model, 250)(test)
            run[name] = {
                **trained.cost(),
                "accuracy": measures["accuracy"],
                "bits_per_dimension": measures["bits_per_dimension"],
            }
        run["gain"] = run["with_unlabelled"]["accuracy"] - run["labelled_only"]["accuracy"]
        logging.info("%s", run)
        runs.append(run)
    record(
        arguments,
        "cifar_semi",
        {"gain": mean_and_worst([run["gain"] for run in runs]), "runs": runs},
    )


def _arguments() -> argparse.Namespace:
    made = training_parser(__doc__.splitlines()[0], minutes=15.0)
    made.add_argument("--steps", type=int, default=1500, help="of each training")
    return started(made)


if __name__ == "__main__":
    main()
