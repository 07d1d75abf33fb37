"""Draws a sheet of labelled images, for the demo and the documentation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_COLUMNS = 12
# Inches. Below the caption there is room for an image of any shape.
_CELL_WIDTH, _CELL_HEIGHT, _IMAGE_SIDE = 0.8, 1.0, 0.68


def draw_labelled(path: Path, images: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> None:
    """Draws images with their labels, twelve per row.

    Args:
        path: `.png` or `.svg`.
        images: uint8 `[height, width]` or `[height, width, channels]` each.
        captions: One for each image.
    """
    rows = -(-len(images) // _COLUMNS)
    width, height = _COLUMNS * _CELL_WIDTH, rows * _CELL_HEIGHT
    figure = Figure(figsize=(width, height))
    # One axis for all: matplotlib takes two seconds to lay out 48 of them.
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(place, _COLUMNS)
        x, bottom = (column + 0.5) * _CELL_WIDTH, (row + 1) * _CELL_HEIGHT - 0.06
        scale = _IMAGE_SIDE / max(image.shape[:2])
        top, half = bottom - scale * image.shape[0], scale * image.shape[1] / 2
        axis.imshow(
            np.squeeze(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest",
            extent=(x - half, x + half, bottom, top), aspect="auto",
        )  # fmt: skip
        # A label may contain a dollar sign.
        axis.text(x, top - 0.05, caption, fontsize=8, ha="center", parse_math=False)
    axis.set(xlim=(0, width), ylim=(height, 0))
    figure.savefig(path, dpi=120)
