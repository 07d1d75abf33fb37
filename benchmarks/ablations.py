"""What each choice of the recipe for small colour images is worth: one training without each.

`python -m benchmarks.ablations --data DIR --epochs 15`
Trains on the CIFAR-10 slice with the recipe, then once for every choice undone, all with the same
seed, images and number of epochs. `--only` names some of the choices; a smaller `--width` takes
less time. `--held-out 1500` measures on so many of the training images instead of on the test
images, which must not decide what a recipe has.
"""

import argparse
import logging
from collections.abc import Mapping
from typing import Any, Final

from benchmarks.cifar import CALIBRATION, MODEL, TRAINER
from benchmarks.image_sets import cifar, record, split_off
from benchmarks.trainings import measure, run_training, started, training_parser

_MEASURES: Final = ("accuracy", "cross_entropy", "ece", "bits_per_dimension")
UNDONE: Final[Mapping[str, Mapping[str, Any]]] = {
    "recipe": {},
    "elbo_of_every_image": {"objective": {"elbo_every": 1}},
    "generative_weight_1": {"objective": {"generative_weight": 1.0}},
    "no_generative_half": {"objective": {"generative_weight": 0.0}},
    "no_label_smoothing": {"objective": {"label_smoothing": 0.0}},
    "no_augmentation": {"augmentation": None},
    "no_horizontal_flip": {"augmentation": {"horizontal_flip": False}},
    "no_cutout": {"augmentation": {"cutout": 0.0}},
    "no_colour_changes": {"augmentation": {"contrast": 0.0, "brightness": 0.0}},
    "constant_learning_rate": {"optimizer": {"schedule": "constant"}},
    "no_moving_average": {"optimizer": {"ema_decay": 0.0}},
    "no_weight_decay": {"optimizer": {"weight_decay": 0.0}},
    "weight_decay_0.02": {"optimizer": {"weight_decay": 0.02}},
    "weight_decay_0.2": {"optimizer": {"weight_decay": 0.2}},
    "no_dropout": {"model": {"dropout": 0.0}},
    "two_blocks": {"model": {"conv_blocks": 2}},
}
"""Options that differ from the recipe by choice; `model` is the section of that name, the others
are sections of `trainer`, and None means its defaults."""


def options(changed: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `model` and `trainer` with some of the recipe's options changed."""
    model, trainer = {**MODEL}, {**TRAINER}
    for section, values in changed.items():
        if section == "model":
            model |= values
        else:
            trainer[section] = {} if values is None else {**TRAINER[section], **values}
    return model, trainer


def main() -> None:
    """Trains once per choice and prints the record."""
    arguments = _arguments()
    full, test = cifar(arguments.data)
    sizes = {"held_out": arguments.held_out} if arguments.held_out else {}
    data = split_off(full, {**CALIBRATION, **sizes}, seed=0)
    measured = data.pop("held_out", test)
    runs: dict[str, dict[str, float]] = {}
    for name in arguments.only:
        model, trainer = options(UNDONE[name])
        if arguments.width:
            model["conv_width"] = arguments.width
        trained = run_training(arguments, data, arguments.seeds[0], model, trainer)
        measures = measure(trained.result.model, measured)
        runs[name] = {
            **{key: measures[key] for key in _MEASURES},
            "core_minutes": trained.core_minutes,
        }
        logging.info("%s: %s", name, runs[name])
    record(arguments, "ablations", runs)


def _arguments() -> argparse.Namespace:
    made = training_parser(__doc__.splitlines()[0], minutes=2.0)
    made.add_argument("--only", nargs="+", choices=UNDONE, default=list(UNDONE), help="choices")
    made.add_argument("--width", type=int, default=0, help="of the network; 0: the recipe's")
    made.add_argument(
        "--held-out", type=int, default=0, help="training images to measure on; 0: the test images"
    )
    return started(made)


if __name__ == "__main__":
    main()
