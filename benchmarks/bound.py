"""Binarised MNIST without labels: the importance-weighted bound of the `mlp` model.

`python -m benchmarks.bound --minutes 60` trains with pixels redrawn at each step and measures
the bound with 5,000 samples on 1,000 test images (Burda et al. 2016: 86.76 nats for a VAE with
one stochastic layer). `--importance-samples 5` trains on the importance-weighted bound instead.
"""

import argparse
import logging
from typing import Any

import numpy as np

from benchmarks.image_sets import mean_and_worst, mnist, record
from benchmarks.trainings import run_training, started, training_parser
from trainer.quality.importance import bound_of_images

MODEL = {"hidden": (512, 512), "decoder_hidden": (512, 512), "latent_size": 50}
TRAINER: dict[str, Any] = {
    "batch_size": 128,
    "evaluate_every_epochs": 10,
    "optimizer": {
        "learning_rate": 1e-3,
        "warmup_epochs": 1,
        "schedule": "cosine",
        "ema_decay": 0.98,
        "ema_every": 8,
    },
    "tensorboard": False,
}


def main() -> None:
    """Trains once per seed and prints the record."""
    arguments = _arguments()
    train, test = mnist(arguments.data)
    objective: dict[str, Any] = {"alpha": 0, "binarise": True}
    if arguments.importance_samples > 1:
        objective |= {"bound": "importance", "samples": arguments.importance_samples}
    options = {**TRAINER, "objective": objective}
    runs = []
    for seed in arguments.seeds:
        trained = run_training(arguments, {"train": train}, seed, MODEL, options)
        bounds, elbos = bound_of_images(
            trained.result.model,
            test.images[: arguments.images],
            samples=arguments.samples,
            binarise=True,
            seed=seed,
        )
        run = {
            "seed": seed,
            **trained.cost(),
            "negative_elbo": -float(np.mean(elbos)),
            "nats": -float(np.mean(bounds)),
        }
        logging.info("%s", run)
        runs.append(run)
    nats = mean_and_worst([float(run["nats"]) for run in runs], worst=max)
    record(arguments, "bound", {"nats": nats, "samples": arguments.samples, "runs": runs})


def _arguments() -> argparse.Namespace:
    made = training_parser(__doc__.splitlines()[0], minutes=60.0)
    made.add_argument("--samples", type=int, default=5000, help="k of the bound")
    made.add_argument("--images", type=int, default=1000, help="test images measured")
    made.add_argument("--importance-samples", type=int, default=1, help="k while training")
    return started(made)


if __name__ == "__main__":
    main()
