"""Writes a strip of small pictures that show the same images and latents during training.

`boards.py` takes one at a bounded number of evaluations; the run report shows them side by side.
Each is a PNG with `SHOWN` tiles per row, at the model's resolution.
"""

import os

import numpy as np
import tensorflow as tf

from trainer.data import pixels
from trainer.model.vae_classifier import VaeClassifier
from trainer.storage import files

FOLDER = "strip"
"""Name of the folder in the working directory."""
ORIGINALS = "originals.png"
"""File with one row of the images that are reconstructed."""
SHOWN = 8
"""Number of tiles per row."""

_EARLY, _EVEN = 5, 4
"""Number of pictures at geometrically spaced steps, and at evenly spaced steps."""


class Strip:
    """Decides when a picture is due and writes it.

    Args:
        workdir: folder whose `strip` subfolder receives files such as `step-00000145.png`: a row
            of reconstructions and, if the decoder can generate images, a row of prior samples.
        images: uint8 [n, height, width, channels]; eight evenly spaced ones are shown.
        seed: seed of the samples from the prior.
        total_steps: planned number of steps.
    """

    def __init__(self, workdir: str, images: np.ndarray, *, seed: int, total_steps: int) -> None:
        self._folder = os.path.join(workdir, FOLDER)
        # Data are often sorted by class, so evenly spaced images show several classes.
        places = np.linspace(0, len(images) - 1, SHOWN).astype(int)
        self._shown = np.ascontiguousarray(images[places])
        self._seed = seed
        self._total_steps = total_steps
        # Early steps change most. If the first evaluation comes late, the geometric marks have
        # passed by then, so evenly spaced marks are added.
        early = np.geomspace(1, max(total_steps, 1), _EARLY)
        even = np.linspace(0, total_steps, _EVEN + 1)
        self._marks = sorted({round(mark) for mark in [*early.tolist(), *even.tolist()]})

    def take(self, step: int, model: VaeClassifier) -> None:
        """Writes a picture if a mark has passed since the last one."""
        due = [mark for mark in self._marks if mark <= step]
        if not due:
            return
        self._marks = self._marks[len(due) :]
        self._write(ORIGINALS, [self._shown])
        unit = pixels.to_unit(tf.constant(self._shown))
        rows = [pixels.to_levels(model.reconstruct(unit)).numpy()]
        if model.config.conditioning != "hidden":
            rows.append(self._samples(model))
        self._write(f"step-{step:08d}.png", rows)

    def _samples(self, model: VaeClassifier) -> np.ndarray:
        latent = tf.random.stateless_normal([SHOWN, model.config.latent_size], [self._seed, 0])
        return pixels.to_levels(
            model.decode_latent(latent, tf.range(SHOWN) % model.num_classes)
        ).numpy()

    def _write(self, name: str, rows: list[np.ndarray]) -> None:
        picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
        content = tf.io.encode_png(picture).numpy()
        files.write_bytes(os.path.join(self._folder, name), content)
