"""Measures of a candidate and a baseline from their probabilities, computed by numpy alone.

What TFMA would have written, for tests of the rules; the metrics have tests of their own.
"""

import numpy as np

from components.model_gate import metric_names as m
from components.model_gate.measures import ClassMeasures, Measures, SliceMeasures
from trainer.quality.confidence_grid import grid_of
from trainer.quality.evaluation import log_softmax


def probabilities(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(logits))


def equal_mass_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """The calibration error over bins of n / bins images; a rest makes the first ones larger."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(right[order] - confidence[order], bins)
    return float(sum(abs(part.sum()) for part in parts) / len(right))


def measure(
    candidate: np.ndarray,
    labels: np.ndarray,
    *,
    baseline: np.ndarray | None = None,
    archives: np.ndarray | None = None,
) -> Measures:
    """Measures probabilities, float [n, K], against labels, int [n]."""
    slices = {}
    if archives is not None:
        slices["archive"] = {
            str(name): _slice(
                candidate[archives == name],
                labels[archives == name],
                None if baseline is None else baseline[archives == name],
            )
            for name in np.unique(archives)
        }
    given = candidate.argmax(axis=1)
    classes = [
        ClassMeasures(
            str(k),
            images=int((labels == k).sum()),
            predicted=int((given == k).sum()),
            hits=int(((given == k) & (labels == k)).sum()),
        )
        for k in range(candidate.shape[1])
    ]
    return Measures(_slice(candidate, labels, baseline), slices, classes)


def _slice(candidate: np.ndarray, labels: np.ndarray, baseline: np.ndarray | None) -> SliceMeasures:
    given = candidate.argmax(axis=1)
    right = given == labels
    rows = np.arange(len(labels))
    loss = -np.log(np.maximum(candidate[rows, labels], 1e-7))
    values = {
        m.EXAMPLE_COUNT: float(len(labels)),
        m.ACCURACY: float(right.mean()),
        m.LOG_LOSS: float(loss.mean()),
        m.CALIBRATION_ERROR: equal_mass_error(candidate.max(axis=1), right),
        m.CALIBRATION_CHANCE_HIGH: grid_of(candidate, labels).chance_error().high,
    }
    if baseline is None:
        return SliceMeasures(values, {})
    old = baseline.argmax(axis=1)
    old_right = old == labels
    old_loss = -np.log(np.maximum(baseline[rows, labels], 1e-7))
    return SliceMeasures(
        values,
        {
            m.PAIRED_IMAGES: float(len(labels)),
            m.PAIRED_BOTH: float((right & old_right).sum()),
            m.PAIRED_GAINED: float((right & ~old_right).sum()),
            m.PAIRED_LOST: float((~right & old_right).sum()),
            m.PAIRED_FLIPS: float((given != old).sum()),
            m.PAIRED_LOG_LOSS: float(old_loss.mean()),
            m.PAIRED_RISE: float((loss - old_loss).mean()),
            m.PAIRED_RISE_DEVIATION: float((loss - old_loss).std(ddof=1)),
            m.PAIRED_MISTAKE: _mistake(candidate),
            m.PAIRED_BASELINE_MISTAKE: _mistake(baseline),
        },
    )


def _mistake(given: np.ndarray) -> float:
    return float(-np.log(np.maximum(1 - given.max(axis=1), 1e-7)).mean())
