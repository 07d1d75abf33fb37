"""Draws how an archive differs from the model's training data."""

import io

import numpy as np

from components.bulk_inference.drift.comparison import DriftReport
from components.bulk_inference.drift.drift_sums import PIXEL_BINS, DriftSums
from trainer.model_card import ModelCard


def draw_drift(card: ModelCard, sums: DriftSums, report: DriftReport) -> bytes:
    """Draws the report: distances, labels, pixel levels.

    Returns:
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    distances, labels, levels = figure.subplots(1, 3)
    colours = ["tab:red" if test.alarm else "tab:blue" for test in report.tests]
    distances.barh(
        [test.name for test in report.tests], [t.distance for t in report.tests], color=colours
    )
    distances.set(title="distance from the training data", xlabel="total variation", xlim=(0, 1))
    places = np.arange(len(report.labels))
    labels.bar(places - 0.2, list(report.training_labels.values()), 0.4, label="held-out")
    labels.bar(places + 0.2, list(report.labels.values()), 0.4, label="archive")
    labels.set(title="predicted labels", xlabel="class number", ylabel="share")
    labels.legend()
    trained = card.summaries.pixels.histogram
    if "pixels" in sums.counts and len(trained) == PIXEL_BINS:
        step = 256 // PIXEL_BINS
        edges = np.arange(PIXEL_BINS) * step
        levels.step(edges, trained, where="post", label="training")
        counts = sums.counts["pixels"]
        levels.step(edges, counts / counts.sum(), where="post", label="archive")
        levels.set(title="pixel levels", xlabel="level", ylabel="share", yscale="log")
        levels.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100, metadata={"Software": None})
    return picture.getvalue()
