"""Computes one thing in several ways, for `test_kernels.py`: `python -m tests.kernels MODEL OUT`.

It runs in fresh processes whose environment chooses the kernels, and writes what it got as .npz.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from trainer.quick_imports import quick_imports

with quick_imports():
    from components.bulk_inference.annotation.handler import Annotator
    from components.bulk_inference.annotation.schema import COLUMNS
    from components.bulk_inference.model_card import read_card
    from tests.trainer import tiny

BATCHES = (15, 60)
IMAGES = 60


class KilledError(Exception):
    """Stands for a kill in the middle of a training."""


def networks() -> dict[str, np.ndarray]:
    """Answers of small networks to 60 images, cut into batches."""
    images = tiny.image_set(IMAGES, seed=5).images / np.float32(255)
    found: dict[str, np.ndarray] = {}
    for encoder in ("mlp", "conv"):
        model = tiny.build(tiny.model_config(encoder=encoder))
        for size in BATCHES:
            parts = [model.analyse(images[at : at + size]) for at in range(0, IMAGES, size)]
            for name in ("probabilities", "embedding", "elbo", "reconstruction_error"):
                joined = np.concatenate([part[name] for part in parts])
                found[f"{encoder} in {size}/{name}"] = joined
    return found


def bulk(model: str) -> dict[str, np.ndarray]:
    """Answers of an exported model through the bulk job's handler, in calls of several sizes."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8, 1), np.uint8)
    annotator = Annotator(read_card(model), workers=2, max_images=256, columns=tuple(COLUMNS))
    found: dict[str, np.ndarray] = {}
    # In other company before and after, as in a resumed job.
    for name, size in (("15", 15), ("60", 60), ("again", 60)):
        starts = range(0, IMAGES, size)
        parts = [annotator.annotate_pixels(pixels[at : at + size])[0] for at in starts]
        for output in parts[0]:
            joined = np.concatenate([part[output] for part in parts])
            found[f"bulk in {name}/{output}"] = (
                joined.astype("U") if joined.dtype == object else joined
            )
    return found


def training() -> dict[str, np.ndarray]:
    """Weights of a training that went through, and of one that was killed and resumed."""

    def kill(event: tiny.TrainingProgress) -> None:
        if event.step >= 17:
            raise KilledError

    with tempfile.TemporaryDirectory() as folder:
        whole = tiny.flat_weights(tiny.resumed_run(Path(folder, "whole"), fit_scores=False))
        try:
            tiny.resumed_run(Path(folder, "killed"), progress=kill, fit_scores=False)
        except KilledError:
            resumed = tiny.flat_weights(tiny.resumed_run(Path(folder, "killed"), fit_scores=False))
    return {"training/whole": whole, "training/resumed": resumed}


def main(model: str, out: str) -> None:
    """Writes everything."""
    np.savez(out, **networks(), **bulk(model), **training())


if __name__ == "__main__":
    main(*sys.argv[1:])
