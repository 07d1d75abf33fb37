"""Collects the run report's facts about the model, such as confusion, calibration and mistakes.

Each function returns the values of one template or reports what is missing.
"""

from typing import Any, Final

import numpy as np

from pipeline.report import findings, plots
from pipeline.report.album import Album, decode_picture, sheet, spaced, square
from pipeline.report.answers import Answers
from pipeline.report.generation import Generator, manifold, prior_samples
from pipeline.report.page import Facts, MissingPartError, isolated
from trainer.model_card import ModelCard
from trainer.quality.confidence_grid import grid_of
from trainer.quality.plane import plane

_MATRIX_CLASSES: Final = 24
"""Maximum number of classes of a matrix; for more, the most confused pairs are shown instead."""
_MOST_CLASSES: Final = 100
_PAIRS: Final = 20
_CARDS: Final = 24
_MAP_POINTS: Final = 900
_MAP_SIDE: Final = 32
_MAP_COLUMNS: Final = 30
_COLOURS: Final = 10
_WIDTH, _HEIGHT, _MARGIN = 640, 480, 18


def confusion(answers: Answers) -> Facts:
    """Returns the confusion matrix, or for many classes its largest off-diagonal cells."""
    _require_labels(answers)
    counts = findings.confusion_counts(answers)
    off = counts - np.diag(counts.diagonal())
    order = np.argsort(-off, axis=None, kind="stable")[:_PAIRS]
    pairs = [
        {"given": answers.classes[row], "predicted": answers.classes[column],
         "count": int(off[row, column]), "share": float(off[row, column] / counts[row].sum())}
        for row, column in zip(*np.unravel_index(order, off.shape), strict=True)
        if off[row, column]
    ]  # fmt: skip
    is_small = len(counts) <= _MATRIX_CLASSES
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        {"name": name, "cells": [
            {"count": int(counts[row, column]), "share": float(shares[row, column]),
             "right": row == column, "predicted": answers.classes[column]}
            for column in range(len(counts))
        ]}
        for row, name in enumerate(answers.classes)
    ] if is_small else []  # fmt: skip
    return {"classes": answers.classes, "rows": rows, "pairs": pairs, **_sample(answers)}


def class_table(answers: Answers) -> Facts:
    """Returns recall, precision and F1 of each class; of many classes, the weakest."""
    _require_labels(answers)
    rows = findings.by_class(answers)
    left_out = max(0, len(rows) - _MOST_CLASSES)
    if left_out:
        rows = sorted(rows, key=lambda row: (np.nan_to_num(row.recall, nan=2.0), row.name))
    return {"rows": rows[:_MOST_CLASSES], "left_out": left_out, **_sample(answers)}


def calibration(answers: Answers, card: ModelCard) -> Facts:
    """Returns reliability before and after temperature scaling."""
    _require_labels(answers)
    temperature = card.calibration.temperature
    value = temperature.value
    known = answers.labels >= 0
    labels = answers.labels[known]
    after = answers.probabilities[known]
    figures = []
    for title, probabilities in (
        ("Before, temperature 1", findings.uncalibrated(after, value)),
        (f"After, temperature {value:.3g}", after),
    ):
        grid = grid_of(probabilities, labels)
        error = grid.calibration_error()
        right = probabilities.argmax(axis=1) == labels
        alt = f"{title}: share of right answers over confidence; calibration error {error:.4f}"
        plot = plots.reliability(title, probabilities.max(axis=1), right, alt=alt)
        figures.append({"plot": plot, "error": error, "chance": grid.chance_error()})
    return {"figures": figures, "temperature": temperature, "images": int(known.sum()),
            "split": card.calibration.split}  # fmt: skip


def mistakes(answers: Answers, album: Album) -> Facts:
    """Returns wrong predictions, most confident first."""
    _require_labels(answers)
    wrong = int(((answers.labels >= 0) & (answers.predicted != answers.labels)).sum())
    places = findings.confident_mistakes(answers, _CARDS)
    return {"wrong": wrong, "cards": _cards(answers, album, places), **_sample(answers)}


def uncertain(answers: Answers, album: Album) -> Facts:
    """Returns the least confident predictions."""
    return {"cards": _cards(answers, album, findings.least_certain(answers, _CARDS))}


def label_errors(answers: Answers, album: Album) -> Facts:
    """Returns the labels that the model doubts."""
    _require_labels(answers)
    places = findings.doubtful_labels(answers, len(answers))
    return {"found": len(places), "cards": _cards(answers, album, places[:_CARDS]),
            **_sample(answers)}  # fmt: skip


def outliers(answers: Answers, card: ModelCard, album: Album) -> Facts:
    """Returns the outlier score with its thresholds, and the images with the largest scores."""
    thresholds = card.calibration.thresholds
    marks = plots.threshold_marks(thresholds.scores())
    high = max([float(np.quantile(answers.scores, 0.999)), *(mark[0] * 1.1 for mark in marks)])
    low = float(answers.scores.min())
    alt = "; ".join(
        f"{name} above {place:.2f}: {int((answers.scores > place).sum())} images"
        for place, name, _ in marks
    )
    figure = plots.histogram(
        "Outlier score of the test split", answers.scores, label="outlier score",
        bounds=(low, high), marks=marks, alt=alt or "no threshold was fitted",
    )  # fmt: skip
    highest = np.argsort(-answers.scores, kind="stable")[:12]
    return {
        "figure": figure,
        "thresholds": {"review": thresholds.review, "reject": thresholds.reject},
        "verdicts": {v: answers.verdicts.count(v) for v in ("accept", "review", "reject")},
        "chosen": card.calibration.outlier_score.chosen,
        "cards": _cards(answers, album, highest),
        **_sample(answers),
    }


def latent_map(answers: Answers, album: Album) -> Facts:
    """Returns posterior means in a plane, a circle per image; pictures come from one sheet."""
    places = np.unique(np.linspace(0, len(answers) - 1, min(_MAP_POINTS, len(answers))).astype(int))
    points, kept = plane(answers.embedding)
    points = points[places]
    low, high = points.min(axis=0), points.max(axis=0)
    unit = (points - low) / np.maximum(high - low, 1e-9)
    x = _MARGIN + unit[:, 0] * (_WIDTH - 2 * _MARGIN)
    y = _MARGIN + (1 - unit[:, 1]) * (_HEIGHT - 2 * _MARGIN)
    tiles = []
    for place in places:
        pixels = decode_picture(answers.encoded[place], _MAP_SIDE)
        tiles.append(square(np.zeros((1, 1, 1), np.uint8) if pixels is None else pixels, _MAP_SIDE))
    most = max(tile.shape[2] for tile in tiles)
    tiles = [np.repeat(tile, most, axis=2) if tile.shape[2] < most else tile for tile in tiles]
    picture = album.picture(sheet(tiles, _MAP_COLUMNS), side=_MAP_SIDE * _MAP_COLUMNS)
    if picture is None:
        raise MissingPartError("The pictures of the map would make the page too large.")
    described = [
        [round(float(a), 1), round(float(b), 1), _described(answers, place)]
        for a, b, place in zip(x, y, places, strict=True)
    ]
    colours = [int(max(answers.labels[p], 0)) % _COLOURS for p in places]
    classes = answers.classes
    return {
        "points": described,
        "colours": colours,
        "sheet": picture,
        "side": _MAP_SIDE,
        "columns": _MAP_COLUMNS,
        "width": _WIDTH,
        "height": _HEIGHT,
        "size": answers.embedding.shape[1],
        "kept": kept,
        "legend": classes if len(classes) <= 3 * _COLOURS else [],
        "total": answers.total,
    }


def plane_of_images(generator: Generator, album: Album) -> Facts:
    """Returns the decoded plane of a model with two latent dimensions."""
    return {"picture": album.picture(_enlarged(manifold(generator), 450), side=900)}


def samples(generator: Generator, album: Album) -> Facts:
    """Returns samples of the decoder: of each class if it takes one, otherwise of the prior."""
    classes = generator.classes[:20] if generator.label_input else []
    per_row = 12
    images = prior_samples(generator, count=per_row if classes else 4 * per_row, seed=7)
    factor = max(1, 44 // max(images.shape[1:3]))
    tiles = images.repeat(factor, axis=1).repeat(factor, axis=2)
    rows = []
    for place in range(len(classes) or 4):
        line = list(tiles[place * per_row : (place + 1) * per_row])
        picture = album.picture(spaced(line), side=900)
        rows.append({"name": classes[place] if classes else "", "picture": picture})
    left_out = len(generator.classes) - len(classes) if classes else 0
    return {"rows": rows, "by_class": bool(classes), "left_out": left_out}


def _enlarged(pixels: np.ndarray, width: int) -> np.ndarray:
    factor = max(1, width // pixels.shape[1])
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _require_labels(answers: Answers) -> None:
    if not (answers.labels >= 0).any():
        raise MissingPartError("No image of the test split has a label that the model knows.")


def _sample(answers: Answers) -> dict[str, int]:
    return {"images": len(answers), "total": answers.total}


def _described(answers: Answers, place: int) -> str:
    label = int(answers.labels[place])
    given = answers.classes[label] if label >= 0 else "unknown"
    predicted = answers.classes[int(answers.predicted[place])]
    surety = f"{100 * float(answers.confidence[place]):.1f} %"
    label_text, answer = isolated(given[:80]), isolated(predicted[:80])
    if given == predicted:
        return f"{label_text}, predicted {surety}"
    return f"labelled {label_text}, predicted {answer} {surety}"


def _cards(answers: Answers, album: Album, places: np.ndarray) -> list[dict[str, Any]]:
    cards = []
    originals = answers.thumbnails([answers.names[place] for place in places.tolist()])
    for place in places.tolist():
        label = int(answers.labels[place])
        given = answers.classes[label] if label >= 0 else "no label"
        predicted = answers.classes[int(answers.predicted[place])]
        surety = float(answers.confidence[place])
        name = answers.names[place]
        cards.append(
            {
                "picture": album.picture(originals.get(name)) or album.file(answers.encoded[place]),
                "alt": f"{name}: labelled {given}, predicted {predicted}",
                "lines": [
                    predicted,
                    f"labelled {isolated(given)}",
                    name.rpartition("/")[2],
                ],
                "figure": f"{100 * surety:.1f}\u202f%",
            }
        )
    return cards
