"""Computes one thing in several ways, for `test_kernels.py`: `python -m tests.kernels MODEL OUT`.

It runs in fresh processes whose environment chooses the kernels, and writes what it got as .npz.
"""

import shutil
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
KEPT = 9
"""Steps of a training after which its folder is copied, of 20."""


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
    """Weights of a training that went through, and of one that resumes what it left on the way."""
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place, "whole"), Path(place, "killed")
        steps: list[int] = []

        def keep(event: tiny.TrainingProgress) -> None:
            # What a kill would leave behind.
            if event.step >= KEPT and not killed.exists():
                shutil.copytree(whole, killed)

        def note(event: tiny.TrainingProgress) -> None:
            steps.append(event.step)

        # What changes the images runs on the same kernels everywhere.
        shorter = {"epochs": 2, "augmentation": {}}
        ends = [
            tiny.resumed_run(folder, shorter, data=tiny.train_only(), progress=progress)
            for folder, progress in ((whole, keep), (killed, note))
        ]
    assert steps[0] >= KEPT, "it began anew"
    return {
        f"training/{name}": tiny.flat_weights(end)
        for name, end in zip(("whole", "resumed"), ends, strict=True)
    }


def main(model: str, out: str) -> None:
    """Writes everything."""
    np.savez(out, **networks(), **bulk(model), **training())


if __name__ == "__main__":
    main(*sys.argv[1:])
