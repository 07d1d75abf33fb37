"""Numbers about a model's answers: confusion, classes, calibration, mistakes, doubtful labels.

Plain NumPy over `Answers`; the model's sections show them.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.report.answers import Answers


@dataclass(frozen=True)
class ClassFigures:
    """One class.

    Attributes:
        name: its name.
        images: images with this label.
        recall: share of them that are found; NaN without images.
        precision: share of the images called so that are; NaN where none is.
        f1: harmonic mean of both; NaN where either is.
        confidence: mean probability of the label over its images; NaN without images.
    """

    name: str
    images: int
    recall: float
    precision: float
    f1: float
    confidence: float


def confusion_counts(answers: Answers) -> np.ndarray:
    """Images by given (row) and predicted (column) class: int [K, K]."""
    known = answers.labels >= 0
    size = len(answers.classes)
    flat = answers.labels[known] * size + answers.predicted[known]
    return np.bincount(flat, minlength=size * size).reshape(size, size)


def by_class(answers: Answers) -> list[ClassFigures]:
    """Figures of each class, in their order."""
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
    """Undoes the temperature: p is softmax(logits / T), so p^T, scaled to sum 1, has T = 1.

    Args:
        probabilities: float [n, K], calibrated.
        temperature: T.

    Returns:
        float64 [n, K].
    """
    logits = temperature * np.log(np.maximum(probabilities.astype(np.float64), 1e-300))
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def confident_mistakes(answers: Answers, most: int) -> np.ndarray:
    """Places of wrong answers, the surest first."""
    wrong = (answers.labels >= 0) & (answers.predicted != answers.labels)
    places = np.flatnonzero(wrong)
    return places[np.argsort(-answers.confidence[places], kind="stable")][:most]


def least_certain(answers: Answers, most: int) -> np.ndarray:
    """Places of the least sure answers."""
    return np.argsort(answers.confidence, kind="stable")[:most]


def doubtful_labels(answers: Answers, most: int) -> np.ndarray:
    """Places of likely label errors, the likeliest first, by confident learning.

    Northcutt, Jiang and Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset
    Labels", J. Artif. Intell. Res. 70. A class's threshold is the mean probability that the model
    gives it over the images labelled so. An image is taken to belong to the likeliest of the
    classes whose threshold its probabilities reach; where that is not its label, the label is
    doubted. Probabilities are out of sample: the model has not learned the test split. Ranked by
    the margin between that class and the label.

    Args:
        answers: The model's answers.
        most: How many at most.

    Returns:
        Places, int [at most `most`].
    """
    known = np.flatnonzero(answers.labels >= 0)
    if not len(known):
        return known
    labels, probabilities = answers.labels[known], answers.probabilities[known]
    own = probabilities[np.arange(len(known)), labels]
    count = np.bincount(labels, minlength=len(answers.classes))
    total = np.bincount(labels, weights=own, minlength=len(answers.classes))
    # A class without images has no threshold that could be reached.
    thresholds = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggested, strength = reached.argmax(axis=1), reached.max(axis=1)
    doubted = np.flatnonzero((strength >= 0) & (suggested != labels))
    margin = strength[doubted] - own[doubted]
    return known[doubted[np.argsort(-margin, kind="stable")]][:most]


def plane(embedding: np.ndarray) -> tuple[np.ndarray, float]:
    """Points of a latent space in a plane.

    Args:
        embedding: float [n, d].

    Returns:
        float64 [n, 2]: the two dimensions themselves where d is 2, else the coordinates along the
        two principal directions; and the share of the variance that they keep.
    """
    points = embedding.astype(np.float64)
    if points.shape[1] == 1:
        return np.concatenate([points, np.zeros_like(points)], axis=1), 1.0
    if points.shape[1] == 2:
        return points, 1.0
    centred = points - points.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    kept = float(np.square(singular[:2]).sum() / max(np.square(singular).sum(), 1e-12))
    return centred @ directions[:2].T, kept
