"""A strip of small pictures: the same images and the same latents as the training goes on.

`boards.py` takes one at a bounded number of evaluations; the run report lays them side by side.
Each is a PNG of `SHOWN` tiles a row, at the model's own resolution.
"""

import os

import numpy as np
import tensorflow as tf

from trainer import pixels
from trainer.checkpoints import write_atomic
from trainer.model import VaeClassifier

FOLDER = "strip"
"""In the working directory."""
ORIGINALS = "originals.png"
"""One row: the images that are reconstructed."""
SHOWN = 8
"""Tiles of a row."""

_EARLY, _EVEN = 5, 4
"""Pictures at equal ratios of steps, and at equal distances."""


class Strip:
    """Decides when a picture is due, and writes it.

    Args:
        workdir: pictures go to `strip` in it, as `step-00000145.png`: a row of reconstructions
            and, where the decoder makes images by itself, a row of prior samples.
        images: uint8 [n, height, width, channels]; the first eight are shown.
        seed: of the prior's samples.
        total_steps: steps planned.
    """

    def __init__(self, workdir: str, images: np.ndarray, *, seed: int, total_steps: int) -> None:
        self._folder = os.path.join(workdir, FOLDER)
        self._shown = np.ascontiguousarray(images[:SHOWN])
        self._seed = seed
        self._total_steps = total_steps
        # Early steps change most; but where the first look comes late, equal ratios are over.
        early = np.geomspace(1, max(total_steps, 1), _EARLY)
        even = np.linspace(0, total_steps, _EVEN + 1)
        self._marks = sorted({round(mark) for mark in [*early.tolist(), *even.tolist()]})

    def take(self, step: int, model: VaeClassifier) -> None:
        """Writes a picture if a mark was passed since the last one."""
        due = [mark for mark in self._marks if mark <= step]
        if not due:
            return
        self._marks = self._marks[len(due) :]
        tf.io.gfile.makedirs(self._folder)
        self._write(ORIGINALS, [self._shown])
        unit = pixels.to_unit(tf.constant(self._shown))
        rows = [pixels.to_levels(model.analyse(unit)["reconstruction"]).numpy()]
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
        write_atomic(os.path.join(self._folder, name), content)
