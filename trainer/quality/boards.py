"""Writes scalars of training and validation, and pictures of the model, to TensorBoard.

`loop.py` calls it on the chief. The pictures are reconstructions, samples of the prior and the
latent map; a few small ones go to files for the run report (`strip.py`).
"""

import io
import math
import os
import time
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.quality.plane import plane
from trainer.quality.strip import Strip

_SHOWN = 16
_MAP_IMAGES = 1000
_PICTURE_SECS = 60.0
"""Minimum time between pictures on TensorBoard, in seconds."""
_MAP_BATCH = 64


class Boards:
    """Writes the events of a run.

    Args:
        workdir: folder whose `tensorboard` subfolder receives the events.
        data: images to show, of the validation split if there is one.
        seed: seed of the samples from the prior.
        total_steps: planned number of steps.
        events: whether to write TensorBoard events; the strip is always written.
    """

    def __init__(
        self, workdir: str, data: ImageSet, *, seed: int, total_steps: int, events: bool
    ) -> None:
        self._writer = None
        if events:
            self._writer = tf.summary.create_file_writer(os.path.join(workdir, "tensorboard"))
        self._strip = Strip(workdir, data.images, seed=seed, total_steps=total_steps)
        self._total_steps = total_steps
        self._pictured_at = time.monotonic()
        self._shown = data.images[:_SHOWN]
        self._mapped = data.images[:_MAP_IMAGES]
        self._labels = data.labels[:_MAP_IMAGES]
        self._seed = seed

    def scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """Writes scalars under `group/`."""
        if self._writer is None:
            return
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"{group}/{name}", value)

    def pictures(self, step: int, model: VaeClassifier) -> None:
        """Writes the pictures of the model's current state that are due."""
        self._strip.take(step, model)
        waited = time.monotonic() - self._pictured_at
        if self._writer is None or (step < self._total_steps and waited < _PICTURE_SECS):
            return
        with self._writer.as_default(step=step):
            tf.summary.image("reconstructions", self._reconstructions(model))
            if model.config.conditioning != "hidden":
                tf.summary.image("prior samples", _grid(self._samples(model)))
            tf.summary.image("latent map", self._latent_map(model))
        self._writer.flush()
        self._pictured_at = time.monotonic()

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()

    def _reconstructions(self, model: VaeClassifier) -> np.ndarray:
        """Draws images in the upper row and their reconstructions in the lower one."""
        pixels = self._shown.astype(np.float32) / 255.0
        rebuilt = model.reconstruct(pixels).numpy()
        return np.concatenate(
            [np.concatenate(list(pixels), axis=1), np.concatenate(list(rebuilt), axis=1)]
        )[np.newaxis]

    def _samples(self, model: VaeClassifier) -> np.ndarray:
        latent = tf.random.stateless_normal([_SHOWN, model.config.latent_size], [self._seed, 0])
        labels = tf.range(_SHOWN) % model.num_classes
        return model.decode_latent(latent, labels).numpy()

    def _latent_map(self, model: VaeClassifier) -> np.ndarray:
        """Plots posterior means in the plane, of their two principal components if d > 2."""
        pixels = self._mapped.astype(np.float32) / 255.0
        # In batches, because a thousand large images at once would take gigabytes.
        parts = np.array_split(pixels, math.ceil(len(pixels) / _MAP_BATCH))
        latent = np.concatenate([model.encode(part).mean.numpy() for part in parts])
        return scatter(plane(latent)[0], self._labels)


def _grid(images: np.ndarray) -> np.ndarray:
    """Arranges images [n, h, w, c] as one image of about sqrt(n) columns."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    padding = rows * columns - len(images)
    cells = np.concatenate([images, np.zeros([padding, *images.shape[1:]], images.dtype)])
    lines = [np.concatenate(list(cells[i * columns : (i + 1) * columns]), 1) for i in range(rows)]
    return np.concatenate(lines)[np.newaxis]


def scatter(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draws a scatter plot coloured by class, uint8 [1, height, width, 3].

    Args:
        points: float [n, 2].
        labels: int [n]; -1 marks a missing label.
    """
    # Slow to import, and used only here.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100, layout="tight")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="tab20", s=6)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return tf.io.decode_png(buffer.getvalue(), channels=3).numpy()[np.newaxis]
