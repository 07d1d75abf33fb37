"""Runs the demo: from handwritten digits to a pushed model and a labelled archive."""

import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.dataset as ds

from pipeline.config import load_config, parse_bulk
from pipeline.console import Terminal, duration
from pipeline.contact_sheet import draw_labelled
from pipeline.digits import DigitsArchives, write_digits
from pipeline.jobs import show_result, train_and_push
from pipeline.labelling import classify_archives

_SHOWN = 48


def run_demo(terminal: Terminal, *, root: Path) -> int:
    """Trains on digits, labels held-out ones with the pushed model, and compares the labels.

    Args:
        terminal: Output for progress and tables.
        root: Folder for all files.

    Returns:
        The exit code: 0, or 3 if the gate refused the model.
    """
    started = time.monotonic()
    archives = write_digits(root / "archives")
    terminal.say(f"archives: {archives.labelled}, {archives.held_out}")
    outcome = train_and_push(terminal, load_config("digits", root=root), root=root)
    if not outcome.blessed:
        show_result(terminal, outcome)
        terminal.result(outcome.as_dict())
        return 3

    table = root / "labelled"
    bulk = parse_bulk(
        {
            "input": {"paths": str(archives.held_out), "labels": {"source": "none"}},
            "model": outcome.pushed,
            "output": str(table),
        }
    )
    labelling = classify_archives(terminal, bulk, logs=root)
    labels = _read_labels(table)
    accuracy = _accuracy(labels, archives)
    picture = root / "labelled.png"
    _draw(picture, labels, archives)

    seconds = time.monotonic() - started
    terminal.table(
        "vaeline demo",
        [
            ("held-out accuracy", f"{accuracy:.4f} on {len(archives.held_out_labels)} images"),
            ("pushed model", outcome.pushed),
            ("labelled table", labelling["output"]),
            ("report", outcome.report),
            ("pictures", f"{picture}, {outcome.pictures}"),
            *((f"time: {name}", duration(step["seconds"])) for name, step in outcome.steps.items()),
            ("time: label the archive", duration(labelling["seconds"])),
            ("time: all", duration(seconds)),
        ],
    )
    terminal.result(
        {
            "held_out_accuracy": accuracy,
            "pipeline": outcome.as_dict(),
            "labelling": labelling,
            "picture": str(picture),
            "seconds": round(seconds, 3),
        }
    )
    return 0


def _read_labels(table: Path) -> dict[str, tuple[str, float]]:
    """Reads label and probability of each image by member name."""
    columns = ds.dataset(table / "table", format="parquet").to_table(
        columns=["member", "label", "probability"]
    )
    rows = zip(*(columns[name].to_pylist() for name in columns.column_names), strict=True)
    return {member: (label, probability) for member, label, probability in rows}


def _accuracy(labels: dict[str, tuple[str, float]], archives: DigitsArchives) -> float:
    truth = archives.held_out_labels
    return sum(labels[name][0] == label for name, label in truth.items()) / len(truth)


def _draw(path: Path, labels: dict[str, tuple[str, float]], archives: DigitsArchives) -> None:
    chosen = sorted(labels)[:_SHOWN]
    images = []
    with zipfile.ZipFile(archives.held_out) as archive:
        for name in chosen:
            content = np.frombuffer(archive.read(name), np.uint8)
            images.append(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE))
    draw_labelled(path, images, [f"{labels[name][0]}  {labels[name][1]:.2f}" for name in chosen])
