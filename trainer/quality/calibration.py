"""Fits the model's quality scores: temperature, outlier score and thresholds.

`train.py` calls it after training, on the calibration split, which neither training nor the gate
uses. The results are weights of the model (`outliers.OutlierScore`), so the export contains them.
"""

import dataclasses
import functools
import logging
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import optimize, stats

from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.options import CalibrationConfig
from trainer.quality import outliers
from trainer.quality.confidence_grid import expected_calibration_error
from trainer.quality.evaluation import (
    Forward,
    fitting_batch,
    log_softmax,
    negative_log_likelihood,
)
from trainer.quality.held_out import HeldOutAnswers
from trainer.quality.synthetic_outliers import synthetic_outliers

_LOG = logging.getLogger(__name__)

_MOST_TRAINING_IMAGES = 10_000
"""Training images used for class Gaussians and principal components; more change them little."""
_MOST_SYNTHETIC = 2_000
"""Maximum number of good images that synthetic outliers are made from."""
_PRIOR_SPREAD = float(np.log(2.0) / stats.norm.ppf(0.975))
"""Standard deviation of log T a priori (docs/decisions/0024-prior-of-the-temperature.md)."""
_LEAST_SPREAD = 0.02
"""Smallest scale of a term, relative to its median. A few calibration images, or images that are
all alike, show no spread, and the rounding of float32 must stay far below a unit of the score."""
_TOLERANCE = 0.05
"""Mean AUROC by which a single term must exceed the combined score to replace it. The combined
score is the default, because a single term that is good on some outliers fails badly on others."""


@dataclasses.dataclass(frozen=True)
class Temperature:
    """The result of fitting the temperature.

    Attributes:
        value: the temperature that the model uses.
        gain: mean decrease of -log p(y|x) against temperature 1, nats.
        standard_error: standard error of the gain, nats.
    """

    value: float
    gain: float
    standard_error: float


def fit_temperature(
    logits: np.ndarray, labels: np.ndarray, *, spread: float = _PRIOR_SPREAD
) -> Temperature:
    """Fits the temperature T (Guo et al. 2017) that is most probable given the labels.

    It minimises the sum of -log p(y|x) and (log T)^2 / (2 s^2): log T is normal a priori, and T
    between 1/2 and 2 at a probability of 95 %. A hundred images that the model has all right say
    little about how often it errs; without the prior they make it certain (T near 0).

    Args:
        logits: float [n, K].
        labels: int [n], 0 to K - 1.
        spread: s, the standard deviation of log T a priori; without a prior it is infinite.
    """

    def loss(log_temperature: float) -> float:
        prior = 0.5 * (log_temperature / spread) ** 2 / len(labels)
        return negative_log_likelihood(logits / np.exp(log_temperature), labels) + prior

    found = optimize.minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    value = float(np.exp(found.x))
    rows = np.arange(len(labels))
    gains = log_softmax(logits / value)[rows, labels] - log_softmax(logits)[rows, labels]
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("inf")
    return Temperature(value, float(gains.mean()), error)


def auroc(good: np.ndarray, bad: np.ndarray) -> float:
    """Returns the probability that a bad image scores above a good one; ties count half.

    This is the Mann-Whitney statistic divided by the number of pairs.
    `sklearn.metrics.roc_auc_score` gives the same number but rejects infinite scores, which
    outliers may have.
    """
    wins = stats.mannwhitneyu(bad, good, method="asymptotic").statistic
    return float(wins / (len(good) * len(bad)))


def conformal_threshold(scores: np.ndarray, rate: float) -> tuple[float, tuple[float, float]]:
    """Computes the score that at most a share `rate` of new good images exceeds on average.

    It is the k-th smallest of n scores, k = ceil((n + 1)(1 - rate)). Over calibration splits, the
    rate of new images above it has a Beta(n + 1 - k, k) distribution (Vovk 2012).

    Args:
        scores: float [n], scores of good images.
        rate: the false-positive rate.

    Returns:
        The threshold, infinite if n is too small for the rate, and the central 95 % interval of the
        rate.
    """
    count = len(scores)
    place = int(np.ceil((count + 1) * (1.0 - rate)))
    if place > count:
        return float("inf"), (0.0, 1.0 / (count + 1))
    threshold = float(np.sort(scores)[place - 1])
    low, high = stats.beta.interval(0.95, count + 1 - place, place)
    return threshold, (float(low), float(high))


def calibrate(
    model: VaeClassifier,
    *,
    train: ImageSet,
    calibration: ImageSet,
    config: CalibrationConfig,
    seed: int,
    batch_size: int = 512,
) -> tuple[dict[str, Any], HeldOutAnswers]:
    """Fits the model's quality scores in place.

    Args:
        model: a trained model.
        train: the train split, source of the neighbours and class Gaussians.
        calibration: images that training has not seen.
        config: options of the rates and the score.
        seed: seed of the choice of images and of the synthetic outliers.
        batch_size: largest number of images per call.

    Returns:
        The fitted and measured values, as plain values, and the calibrated model's answers on the
        labelled images.
    """
    known = _subset(train, _MOST_TRAINING_IMAGES, seed)
    encode = Forward(
        functools.partial(_encoded, model),
        model.image_shape,
        fitting_batch(batch_size, len(known), len(calibration)),
    )
    _fit_references(model, encode(known.images), known.labels, seed)
    report: dict[str, Any] = {"images": len(calibration)}
    # The features of a large calibration split would take a hundred times the memory.
    logits = encode(calibration.images, "logits")["logits"]
    report["temperature"] = _fit_temperature(model, logits, calibration.labels)
    terms = Forward(
        model.outlier_terms, model.image_shape, fitting_batch(batch_size, len(calibration))
    )
    good = terms(calibration.images)
    _fit_standardisation(model, good)
    report["outlier_score"] = _choose_score(model, terms, good, calibration, config, seed)
    scores = _combined(model, good, model.scores.score)
    report["thresholds"] = _fit_thresholds(model, scores, config)
    return report, _answers(model, logits, calibration.labels, scores)


def _answers(
    model: VaeClassifier, logits: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> HeldOutAnswers:
    labelled = labels >= 0
    probabilities = np.exp(log_softmax(logits[labelled] / model.scores.temperature.numpy()))
    return HeldOutAnswers(
        label=probabilities.argmax(axis=1).astype(np.int32),
        given=labels[labelled].astype(np.int32),
        probability=probabilities.max(axis=1, initial=0.0).astype(np.float32),
        outlier_score=scores[labelled].astype(np.float32),
    )


def _encoded(model: VaeClassifier, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
    # `analyse` has them too, but tracing its decoder takes longer than all of this.
    encoded = model.encode(pixels)
    logits = model.classify(encoded)
    return {"features": encoded.features, "embedding": encoded.mean, "logits": logits}


def _subset(data: ImageSet, most: int, seed: int) -> ImageSet:
    if len(data) <= most:
        return data
    places = np.random.default_rng([seed, 1]).permutation(len(data))[:most]
    return data.take(np.sort(places))


def _fit_temperature(
    model: VaeClassifier, logits: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    labelled = labels >= 0
    if labelled.sum() < 2:
        model.scores.temperature.assign(1.0)
        return {"value": 1.0}
    logits, labels = logits[labelled], labels[labelled]
    temperature = fit_temperature(logits, labels)
    model.scores.temperature.assign(temperature.value)

    def error(value: float) -> float:
        return expected_calibration_error(np.exp(log_softmax(logits / value)), labels)

    return {
        **dataclasses.asdict(temperature),
        "calibration_error_before": error(1.0),
        "calibration_error": error(temperature.value),
    }


def _fit_references(
    model: VaeClassifier, known: dict[str, np.ndarray], labels: np.ndarray, seed: int
) -> None:
    """Fits neighbour bank, principal components and class Gaussians to training images."""
    scores = model.scores
    features = known["features"].astype(np.float64)
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    # Uncentred, because the neighbour search compares products of directions.
    _, components = np.linalg.eigh(directions.T @ directions)
    projection = components[:, ::-1][:, : scores.components]
    order = np.random.default_rng([seed, 2]).permutation(len(directions))[: scores.bank_size]
    bank = np.zeros([scores.bank_size, scores.components])
    bank[: len(order)] = directions[order] @ projection
    scores.projection.assign(projection)
    scores.bank.assign(bank)

    classes = np.where(labels >= 0, labels, known["logits"].argmax(axis=-1))
    projected = features @ projection
    for values, groups, count, whitening, centres in (
        (known["embedding"], classes, model.num_classes, scores.whitening, scores.class_means),
        (projected, classes, model.num_classes, scores.feature_whitening, scores.feature_means),
        (projected, 0 * classes, 1, scores.background_whitening, scores.background_mean),
    ):
        fitted, white = _class_gaussians(values.astype(np.float64), groups, count)
        whitening.assign(white)
        centres.assign(fitted @ white)


def _class_gaussians(
    values: np.ndarray, classes: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fits one Gaussian per class with a common covariance.

    Args:
        values: float64 [n, d].
        classes: int [n], 0 to `count` - 1.
        count: number of classes; one without images gets the mean of all.

    Returns:
        The means, float64 [count, d], and the matrix that whitens the differences from them.
    """
    overall = values.mean(axis=0)
    means = np.stack(
        [
            values[classes == k].mean(axis=0) if (classes == k).any() else overall
            for k in range(count)
        ]
    )
    centred = values - means[classes]
    covariance = centred.T @ centred / len(values)
    # Unused latent dimensions have hardly any variance in mu.
    covariance += np.eye(len(covariance)) * max(1e-3 * np.trace(covariance) / len(covariance), 1e-6)
    return means, np.linalg.inv(np.linalg.cholesky(covariance)).T


def _fit_standardisation(model: VaeClassifier, good: dict[str, np.ndarray]) -> None:
    centre = np.zeros(len(outliers.TERMS))
    scale = np.ones(len(outliers.TERMS))
    for place, name in enumerate(outliers.TERMS):
        if name in good:
            centre[place], high = np.quantile(good[name], [0.5, 0.95])
            scale[place] = max(high - centre[place], _LEAST_SPREAD * abs(centre[place]), 1e-6)
    model.scores.centre.assign(centre)
    model.scores.scale.assign(scale)


def _combined(model: VaeClassifier, terms: dict[str, np.ndarray], score: str) -> np.ndarray:
    tensors = {name: tf.constant(values) for name, values in terms.items()}
    return model.scores.combine(tensors, score).numpy()


def _choose_score(
    model: VaeClassifier,
    terms: Forward,
    good: dict[str, np.ndarray],
    calibration: ImageSet,
    config: CalibrationConfig,
    seed: int,
) -> dict[str, Any]:
    """Measures every candidate score on synthetic outliers and sets the model's score."""
    candidates = list(good)
    if set(outliers.COMBINED_TERMS) <= set(good):
        candidates.append(outliers.COMBINED)
    sample = _subset(calibration, _MOST_SYNTHETIC, seed)
    bad = {
        kind: terms(images) for kind, images in synthetic_outliers(sample.images, seed=seed).items()
    }
    measured = {
        name: {
            kind: auroc(_combined(model, good, name), _combined(model, values, name))
            for kind, values in bad.items()
        }
        for name in candidates
    }
    means = {name: float(np.mean(list(values.values()))) for name, values in measured.items()}
    chosen: str = config.outlier_score
    if chosen == "auto":
        best = max(means, key=lambda name: means[name])
        preferred = means.get(outliers.COMBINED, -1.0) >= means[best] - _TOLERANCE
        chosen = outliers.COMBINED if preferred else best
    model.scores.score = chosen
    _LOG.info("outlier score: %s, mean AUROC on synthetic outliers %.3f", chosen, means[chosen])
    return {"chosen": chosen, "mean_auroc": means, "auroc": measured}


def _fit_thresholds(
    model: VaeClassifier, scores: np.ndarray, config: CalibrationConfig
) -> dict[str, Any]:
    review, review_interval = conformal_threshold(scores, config.false_positive_rate)
    reject, reject_interval = conformal_threshold(scores, config.reject_rate)
    model.scores.thresholds.assign([review, reject])
    return {
        "review": {"score": _finite(review), "rate": config.false_positive_rate,
                   "interval": list(review_interval)},
        "reject": {"score": _finite(reject), "rate": config.reject_rate,
                   "interval": list(reject_interval)},
    }  # fmt: skip


def _finite(value: float) -> float | None:
    """Returns None for infinity, which JSON lacks; then no image is above the threshold."""
    return value if np.isfinite(value) else None
