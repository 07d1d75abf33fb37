"""The search for options against the recipe, both from a conv encoder on the CIFAR-10 slice.

`python -m benchmarks.tuner --data DIR --epochs 25 --trials 12 --trial-epochs 3 --json`
One side searches from plain defaults (`recipe: none`) in the tuner's default space, by validation
images, and trains with what it found. The other side trains with `conv_colour`, for as many epochs
on the same images. `share_of_recipe` compares the accuracies on the test images.
"""

import argparse
import logging
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import cifar as recipe_side
from benchmarks.image_sets import cifar, mean_and_worst, record, split_off
from benchmarks.trainings import run_training, started, training_parser
from trainer.config import ModelConfig, TrainerConfig
from trainer.data.examples import pixel_moments
from trainer.data.input_pipeline import ImageSet
from trainer.quality.evaluation import Evaluator
from trainer.search.tuning import OptionTuner

_DEFAULTS = {"encoder": "conv"}


def main() -> None:
    """Searches and trains once per seed, and prints the record."""
    arguments = _arguments()
    full, test = cifar(arguments.data)
    data = split_off(full, {"validation": 800, "calibration": 800}, seed=0)
    if arguments.images:
        data["train"] = data["train"].take(np.arange(arguments.images))
    runs = []
    for seed in arguments.seeds:
        begun = time.monotonic()
        model, trainer, verdict = search(arguments, data, seed)
        logging.info("%s", verdict)
        run: dict[str, Any] = {
            "seed": seed,
            "found": verdict,
            "search_minutes": (time.monotonic() - begun) / 60,
        }
        sides = {"tuned": (model, trainer), "recipe": (recipe_side.MODEL, recipe_side.TRAINER)}
        for side, options in sides.items():
            trained = run_training(arguments, data, seed, *options)
            accuracy = Evaluator(trained.result.model, 250)(test)["accuracy"]
            run[side] = {"accuracy": accuracy, **trained.cost()}
            logging.info("%s: %s", side, run[side])
        run["share_of_recipe"] = run["tuned"]["accuracy"] / run["recipe"]["accuracy"]
        runs.append(run)
    summary = {
        "share_of_recipe": mean_and_worst([run["share_of_recipe"] for run in runs]),
        "tuned_accuracy": mean_and_worst([run["tuned"]["accuracy"] for run in runs]),
        "recipe_accuracy": mean_and_worst([run["recipe"]["accuracy"] for run in runs]),
    }
    record(arguments, "tuner", {**summary, "runs": runs})


def search(
    arguments: argparse.Namespace, data: Mapping[str, ImageSet], seed: int
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Searches from plain defaults; returns the options that it found, and a line on them."""
    tuner = {"trials": arguments.trials, "epochs": arguments.trial_epochs}
    mean, std = pixel_moments(data["train"])
    options = {"epochs": arguments.epochs, "seed": seed, "tensorboard": False, "tuner": tuner}
    with tempfile.TemporaryDirectory(prefix="bench-tuner-") as folder:
        made = OptionTuner(
            model_config=ModelConfig.model_validate(_DEFAULTS),
            trainer_config=TrainerConfig.model_validate(options),
            data=data,
            image_shape=data["train"].images.shape[1:],
            num_classes=int(data["train"].labels.max()) + 1,
            pixel_mean=mean,
            pixel_std=std,
            directory=str(pathlib.Path(folder)),
        )
        made.search()
        (best,) = made.get_best_hyperparameters()
        model, trainer = made.best_options(best.values)
        found = trainer.model_dump(exclude={"tuner"})
        return model.model_dump(), {**found, "evaluate_every_epochs": 10}, made.verdict()


def _arguments() -> argparse.Namespace:
    made = training_parser(__doc__.splitlines()[0], minutes=15.0)
    made.set_defaults(epochs=25.0)
    made.add_argument("--trials", type=int, default=12, help="settings tried")
    made.add_argument("--trial-epochs", type=float, default=3.0, help="of one trial")
    made.add_argument("--images", type=int, default=0, help="training images; 0: all")
    return started(made)


if __name__ == "__main__":
    main()
