"""Computes confusion, class metrics, calibration, mistakes and doubtful labels of predictions.

The functions apply NumPy to `Answers`; the sections about the model show the results.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.report.answers import Answers


@dataclass(frozen=True)
class ClassFigures:
    """The metrics of one class.

    Attributes:
        name: name of the class.
        images: number of images with this label.
        recall: share of these images that are predicted as this class; NaN without images.
        precision: share of the images predicted as this class that have its label; NaN if no image
            is predicted as this class.
        f1: harmonic mean of recall and precision, 0 if either is; NaN if both are.
        confidence: mean probability of the label over its images; NaN without images.
    """

    name: str
    images: int
    recall: float
    precision: float
    f1: float
    confidence: float


def confusion_counts(answers: Answers) -> np.ndarray:
    """Counts images by given (row) and predicted (column) class: int [K, K]."""
    known = answers.labels >= 0
    size = len(answers.classes)
    flat = answers.labels[known] * size + answers.predicted[known]
    return np.bincount(flat, minlength=size * size).reshape(size, size)


def by_class(answers: Answers) -> list[ClassFigures]:
    """Computes the metrics of each class, in order."""
    counts = confusion_counts(answers).astype(float)
    right, given, called = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    known = answers.labels >= 0
    own = answers.probabilities[known, answers.labels[known]]
    surety = np.bincount(answers.labels[known], weights=own, minlength=len(counts))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / given, right / called
        f1 = 2 * right / (given + called)
        confidence = surety / given
    return [
        ClassFigures(
            name, int(given[k]), *(float(a[k]) for a in (recall, precision, f1, confidence))
        )
        for k, name in enumerate(answers.classes)
    ]


def uncalibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Reverts temperature scaling: p is softmax(logits / T), so normalised p^T has T = 1.

    Args:
        probabilities: float [n, K], calibrated.
        temperature: the temperature T.

    Returns:
        float64 [n, K].
    """
    logits = temperature * np.log(np.maximum(probabilities.astype(np.float64), 1e-300))
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def confident_mistakes(answers: Answers, most: int) -> np.ndarray:
    """Returns the indices of wrong predictions, most confident first."""
    wrong = (answers.labels >= 0) & (answers.predicted != answers.labels)
    places = np.flatnonzero(wrong)
    return places[np.argsort(-answers.confidence[places], kind="stable")][:most]


def least_certain(answers: Answers, most: int) -> np.ndarray:
    """Returns the indices of the least confident predictions."""
    return np.argsort(answers.confidence, kind="stable")[:most]


def doubtful_labels(answers: Answers, most: int) -> np.ndarray:
    """Finds likely label errors by confident learning and returns their indices, likeliest first.

    See Northcutt, Jiang and Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset
    Labels", J. Artif. Intell. Res. 70. The threshold of a class is the mean probability of the
    class over the images with its label. An image is assigned to the most probable of the classes
    whose threshold its probabilities reach; if that is not its label, the label is doubtful. The
    probabilities are out of sample, because the model has not learned the test split. Doubtful
    labels are ranked by the margin between that class and the label.

    Args:
        answers: The model's predictions.
        most: Maximum number of indices.

    Returns:
        Indices, int [at most `most`].
    """
    known = np.flatnonzero(answers.labels >= 0)
    if not len(known):
        return known
    labels, probabilities = answers.labels[known], answers.probabilities[known]
    own = probabilities[np.arange(len(known)), labels]
    count = np.bincount(labels, minlength=len(answers.classes))
    total = np.bincount(labels, weights=own, minlength=len(answers.classes))
    # The threshold of a class without images must be unreachable.
    thresholds = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggested, strength = reached.argmax(axis=1), reached.max(axis=1)
    doubted = np.flatnonzero((strength >= 0) & (suggested != labels))
    margin = strength[doubted] - own[doubted]
    return known[doubted[np.argsort(-margin, kind="stable")]][:most]
