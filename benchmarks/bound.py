"""Binarised MNIST without labels: the importance-weighted bound of the `mlp` model.

`python -m benchmarks.bound --minutes 60` trains with pixels drawn anew at each step and measures
the bound with 5,000 samples on 1,000 test images (Burda et al. 2016: 86.76 nats for a VAE with
one stochastic layer). `--importance-samples 5` trains on the importance-weighted bound instead.
"""

import argparse
import logging
import time
from typing import Any

import numpy as np

from benchmarks.image_sets import mean_and_worst, mnist, parser, record
from benchmarks.mnist_supervised import epochs_for, fit
from trainer import evaluation

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
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train, test = mnist(arguments.data)
    objective: dict[str, Any] = {"alpha": 0, "binarise": True}
    if arguments.importance_samples > 1:
        objective |= {"bound": "importance", "samples": arguments.importance_samples}
    options = {**TRAINER, "objective": objective}
    runs = []
    for seed in arguments.seeds:
        data = {"train": train}
        epochs = arguments.epochs or epochs_for(data, arguments.minutes, MODEL, options)
        started = time.monotonic()
        result = fit(data, seed, epochs, MODEL, options)
        minutes = (time.monotonic() - started) / 60
        bounds = {
            samples: -float(
                np.mean(
                    evaluation.importance_bound(
                        result.model,
                        test.images[: arguments.images],
                        samples=samples,
                        binarise=True,
                        seed=seed,
                    )
                )
            )
            for samples in (1, arguments.samples)
        }
        run = {"seed": seed, "epochs": epochs, "minutes": minutes,
               "negative_elbo": bounds[1], "nats": bounds[arguments.samples]}  # fmt: skip
        logging.info("%s", run)
        runs.append(run)
    nats = mean_and_worst([float(run["nats"]) for run in runs], worst=max)
    record(arguments, "bound", {"nats": nats, "samples": arguments.samples, "runs": runs})


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--minutes", type=float, default=60.0, help="of training, per seed")
    made.add_argument("--epochs", type=float, help="instead of minutes")
    made.add_argument("--samples", type=int, default=5000, help="k of the bound")
    made.add_argument("--images", type=int, default=1000, help="test images measured")
    made.add_argument("--importance-samples", type=int, default=1, help="k while training")
    return made.parse_args()


if __name__ == "__main__":
    main()
