"""Outliers of a model of 8 classes of the CIFAR-10 slice: AUROC of the score that was calibrated.

`python -m benchmarks.colour_outliers --minutes 15 --seeds 1`
Score, scale and threshold are fixed before any of these outliers is made, as in `outliers.py`. The
kinds are those of `colour_sets.py`, which says which are far, and all images of two classes that
the model has not seen.
"""

import argparse
import logging

import numpy as np

from benchmarks.cifar import MODEL, TRAINER
from benchmarks.colour_sets import FAR, HELD_OUT, known_classes, outlier_sets
from benchmarks.image_sets import cifar, mean_and_worst, mnist, record, split_off
from benchmarks.outliers import measured
from benchmarks.trainings import run_training, started, training_parser
from trainer.quality.evaluation import Evaluator


def main() -> None:
    """Trains once per seed, measures every kind and prints the record."""
    arguments = _arguments()
    full, test = cifar(arguments.data)
    _, digits = mnist(arguments.data)
    known, others = known_classes(full)
    good, more = known_classes(test)
    runs = []
    for seed in arguments.seeds:
        data = split_off(known, {"calibration": 800}, seed=seed)
        trained = run_training(arguments, data, seed, MODEL, TRAINER)
        sets = outlier_sets(good.images, digits.images, seed)
        sets["held_out"] = np.concatenate([others.images, more.images])
        found = measured(trained.result, good.images, sets)
        far = [found["auroc"][kind] for kind in FAR]
        low, high = found["stated_interval"]
        run = {
            "seed": seed,
            **trained.cost(),
            "accuracy": Evaluator(trained.result.model, 250)(good)["accuracy"],
            "held_out_classes": list(HELD_OUT),
            "far_mean_auroc": float(np.mean(far)),
            "far_least_auroc": float(min(far)),
            "held_out_auroc": found["auroc"]["held_out"],
            "all_mean_auroc": float(np.mean(list(found["auroc"].values()))),
            "all_least_auroc": float(min(found["auroc"].values())),
            "is_outside_interval": float(not low <= found["false_positive_rate"] <= high),
            **found,
        }
        logging.info("%s", {key: value for key, value in run.items() if key != "terms"})
        runs.append(run)
    names = ("far_mean_auroc", "far_least_auroc", "held_out_auroc", "all_mean_auroc")
    summary = {name: mean_and_worst([float(run[name]) for run in runs]) for name in names}
    outside = mean_and_worst([float(run["is_outside_interval"]) for run in runs], worst=max)
    record(arguments, "colour_outliers", {**summary, "outside_interval": outside, "runs": runs})


def _arguments() -> argparse.Namespace:
    return started(training_parser(__doc__.splitlines()[0], minutes=15.0))


if __name__ == "__main__":
    main()
