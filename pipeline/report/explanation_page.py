"""Writes the page that explains one row of a table, for `vaeline explain`."""

from functools import partial
from typing import Any, Final

import numpy as np

from components.review.explanation import Explanation
from components.review.labelled_archive import LabelledArchive
from pipeline.report.album import Album, Picture, decode_picture
from pipeline.report.page import Facts, MissingPartError, Page
from serving import names
from serving.local_model import LocalModel
from serving.predictions import ServingError

_SIDE: Final = 224
_SECONDS: Final = 20.0
"""Time limit for fetching the pictures of the neighbours."""
_LONGEST: Final = 8
"""Numbers of a vector that are shown."""


def write_explanation(output: str, explanation: Explanation, path: str) -> None:
    """Writes a self-contained page: the image, its reconstruction, the row, its neighbours.

    Args:
        output: The folder of the bulk job.
        explanation: The row.
        path: The file.

    Raises:
        ReportError: The file cannot be written.
    """
    archive = LabelledArchive(output)
    album = Album()
    page = Page("Explanation", explanation.row["key"])
    page.hero("explanation_hero.html", lambda: {"line": explanation.line()})
    page.chapter("image", "The image")
    page.section("pictures", "As found, and as the model reconstructs it", "explained_images.html",
                 partial(_images, archive, explanation, album))  # fmt: skip
    page.section("neighbours", "The nearest images of the table", "explained_images.html",
                 partial(_neighbours, archive, explanation, album))  # fmt: skip
    page.chapter("row", "The row")
    page.section("columns", "Recorded, and computed again", "explained_row.html",
                 partial(_columns, explanation))  # fmt: skip
    page.section("basis", "What it rests on", "explained_basis.html",
                 partial(_basis, archive, explanation))  # fmt: skip
    page.write(path, left_out=album.left_out)


def _images(archive: LabelledArchive, explanation: Explanation, album: Album) -> Facts:
    row = explanation.row
    found = {
        "picture": album.file(explanation.content, _SIDE),
        "alt": row["key"],
        "lines": ["as found", f"{row.get('width', '?')} x {row.get('height', '?')} pixels"],
    }
    return {"cards": [found, *_reconstruction(archive, explanation, album)]}


def _reconstruction(
    archive: LabelledArchive, explanation: Explanation, album: Album
) -> list[dict[str, Any]]:
    if explanation.fault:
        return []
    files = np.array([explanation.content], object)
    try:
        answer = LocalModel(archive.card.path).predict(
            names.RECONSTRUCT, {names.IMAGE_BYTES: files}
        )
    except ServingError:
        # An earlier release exported a model without this signature.
        return []
    picture: Picture | None = album.picture(answer[names.IMAGE][0], _SIDE)
    return [{"picture": picture, "alt": "reconstruction", "lines": ["as reconstructed"]}]


def _neighbours(archive: LabelledArchive, explanation: Explanation, album: Album) -> Facts:
    if not explanation.neighbours:
        raise MissingPartError("The table has no embeddings to compare.")
    places = [(row["source"], row["member"]) for row in explanation.neighbours]
    files = archive.images(places, seconds=_SECONDS)
    cards = []
    for row in explanation.neighbours:
        content = files.get((row["source"], row["member"]))
        lines = [row["label"], f"distance {row['distance']:.2f}", row["member"]]
        picture = album.picture(decode_picture(content) if content else None)
        cards.append({"picture": picture, "alt": row["key"], "lines": lines})
    return {"cards": cards}


def _columns(explanation: Explanation) -> Facts:
    if explanation.fault:
        raise MissingPartError(f"The image is a reject now: {explanation.fault}.")
    return {
        "cells": [
            {
                "column": cell.column,
                "recorded": shown(cell.recorded),
                "now": shown(cell.now),
                "same": cell.is_same,
            }
            for cell in explanation.cells
        ]
    }


def shown(value: Any) -> str:
    """Formats a value of a column, long vectors by their first numbers."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        more = f", ... ({len(value)})" if len(value) > _LONGEST else ""
        return ", ".join(shown(each) for each in value[:_LONGEST]) + more
    return "" if value is None else str(value)


def _basis(archive: LabelledArchive, explanation: Explanation) -> Facts:
    return {
        "model": archive.manifest["model"],
        "written": archive.manifest["written"],
        "libraries": explanation.libraries,
        "command": " ".join(archive.manifest["command"]),
    }
