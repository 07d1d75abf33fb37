"""The CIFAR-10 slice with 400 labels: accuracy with the images without labels, and without them.

`python -m benchmarks.cifar_semi --data DIR --steps 1500 --seeds 1`
Each seed draws 40 labelled images per class; 6,800 images are left without. Both models take the
same number of steps and the same augmentation. Calibration uses 800 labelled images that nothing
else sees.
"""

import argparse
import logging
from typing import Any

from benchmarks.cifar import MODEL, TRAINER
from benchmarks.image_sets import cifar, few_labels, mean_and_worst, record
from benchmarks.trainings import run_training, started, training_parser
from trainer.quality.evaluation import Evaluator

PER_CLASS = 40
BATCH = 32
SEMI_SUPERVISED: dict[str, Any] = {
    "batch_size": 128,
    "elbo_every": 8,
    "consistency": 1.0,
    "confidence": 0.9,
    "ramp": (0.1, 0.3),
    "mutual_information": 0.3,
    "weak_strength": 0.3,
}


def main() -> None:
    """Trains two models per draw of the labels and prints the record."""
    arguments = _arguments()
    full, test = cifar(arguments.data)
    model = {**MODEL, "conv_width": 48}
    trainer = {**TRAINER, "batch_size": BATCH, "semi_supervised": SEMI_SUPERVISED}
    runs = []
    for seed in arguments.seeds:
        data = few_labels(full, PER_CLASS, calibration=800, seed=seed)
        arguments.epochs = arguments.steps * BATCH / len(data["train"])
        trainer["evaluate_every_epochs"] = arguments.epochs / 4
        run: dict[str, Any] = {"seed": seed}
        for name in ("with_unlabelled", "labelled_only"):
            if name == "labelled_only":
                del data["unlabelled"]
            trained = run_training(arguments, data, seed, model, trainer)
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
