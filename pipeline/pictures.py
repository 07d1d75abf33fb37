"""Draws pictures of a training, which the Trainer writes to the model run."""

import io
import posixpath
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trainer.data.input_pipeline import ImageSet
from trainer.data.pixels import to_levels, to_unit
from trainer.model.vae_classifier import VaeClassifier
from trainer.quality.plane import plane
from trainer.storage import files

_COLUMNS = 12
_MOST_POINTS = 2000
_BATCH = 64
_SEED = 3
# Gap between the images of a grid: its width in pixels and its grey level.
_GAP, _GAP_LEVEL = 1, 128
# Colours that colour-blind readers can distinguish (matplotlib's tab10 and its lighter variant).
_COLOURS = [*(f"C{n}" for n in range(10)), *(mpl.colormaps["tab20"](n) for n in range(1, 20, 2))]


def draw_training(
    folder: str, *, model: VaeClassifier, images: ImageSet, classes: Sequence[str]
) -> None:
    """Draws `reconstructions.png`, `samples.png` and `latent_map.png`.

    Args:
        folder: Output folder, local or remote; created if missing.
        model: The trained model.
        images: Images that training has not learned from, if there are any.
        classes: Class names by label.
    """
    shown = to_unit(tf.constant(images.images[:_COLUMNS]))
    reconstruction = to_levels(model.reconstruct(shown)).numpy()
    _save(
        _grid([images.images[:_COLUMNS], reconstruction]),
        folder,
        "reconstructions.png",
    )
    if model.config.conditioning != "hidden":
        latent = tf.random.stateless_normal([3 * _COLUMNS, model.config.latent_size], [_SEED, 0])
        # If the decoder is conditioned on the class, the samples go through the classes in turn.
        labels = tf.range(3 * _COLUMNS) % model.num_classes
        samples = to_levels(model.decode_latent(latent, labels)).numpy()
        _save(_grid(np.split(samples, 3)), folder, "samples.png")
    points = images.take(np.arange(min(len(images), _MOST_POINTS)))
    # In batches, because two thousand large images at once would take gigabytes.
    parts = np.array_split(points.images, -(-len(points) // _BATCH))
    means = [model.encode(to_unit(tf.constant(part))).mean.numpy() for part in parts]
    embedding = np.concatenate(means)
    _save(_latent_map(embedding, points.labels, classes), folder, "latent_map.png")


def _grid(rows: Sequence[NDArray[np.uint8]]) -> Figure:
    gap = ((0, _GAP), (0, _GAP), (0, 0))
    framed = [[np.pad(image, gap, constant_values=_GAP_LEVEL) for image in row] for row in rows]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in framed], axis=0)
    height, width = picture.shape[:2]
    figure = Figure(figsize=(9, 9 * height / width))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    axis.imshow(np.squeeze(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure


def _latent_map(
    embedding: NDArray[np.float32], labels: NDArray[np.int32], classes: Sequence[str]
) -> Figure:
    """Draws the embeddings in the plane of their two directions of largest variance."""
    points, _ = plane(embedding)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis = figure.subplots()
    for label in range(len(classes)):
        chosen = points[labels == label]
        colour = _COLOURS[label % len(_COLOURS)]
        axis.scatter(chosen[:, 0], chosen[:, 1], s=8, color=colour, label=str(label))
    axis.set(title="posterior means, first two principal directions", xlabel="", ylabel="")
    if len(classes) <= len(_COLOURS):
        legend = axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        # Set afterwards, because matplotlib leaves out labels that begin with an underscore.
        for text, name in zip(legend.get_texts(), classes, strict=True):
            text.set(text=name, parse_math=False)
    return figure


def _save(figure: Figure, folder: str, name: str) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    files.write_bytes(posixpath.join(folder, name), buffer.getvalue())
