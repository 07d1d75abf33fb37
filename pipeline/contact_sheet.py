"""Draws a sheet of labelled images, for the demo and the documentation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_COLUMNS = 12


def draw_labelled(path: Path, images: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> None:
    """Draws images with their labels, twelve per row.

    Args:
        path: `.png` or `.svg`.
        images: uint8 `[height, width]` or `[height, width, channels]` each.
        captions: One for each image.
    """
    rows = -(-len(images) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * 0.8, rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, caption in zip(axes, images, captions, strict=False):
        axis.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        # A label may contain a dollar sign.
        axis.set_title(caption, fontsize=8, parse_math=False)
    figure.savefig(path, dpi=120)
