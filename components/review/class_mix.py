"""Estimates the class mix of an archive, and adjusts the labels of its table to it.

`vaeline review mix` calls it.
"""

import json
import posixpath
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import optimize, stats
from sklearn.metrics import confusion_matrix

from components.bulk_inference.drift.comparison import prior_shift, two_sample
from components.bulk_inference.output.ledger import ADJUSTED
from components.bulk_inference.output.table_rows import class_probabilities
from components.review.labelled_archive import LabelledArchive
from components.sinks import ParquetSink
from trainer.errors import InputError
from trainer.storage import files

MIX_FILE: Final = f"{ADJUSTED}/mix.json"

_NEEDED: Final = ("top_k_labels", "top_k_probabilities")
_COLUMNS: Final = ("key", "label", "probability", "probabilities", *_NEEDED)
_MOST_ROWS: Final = 50_000
"""Rows that the mix is estimated from, at equal distances in the table."""
_LEAST: Final = 1e-6
_LEVEL: Final = 0.01
_PRIOR_IMAGES: Final = 1.0
"""Weight of the prior of a class's errors (docs/decisions/0025-intervals-of-class-shares.md)."""
_SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float32()),
        ("adjusted_label", pa.string()),
        ("adjusted_probability", pa.float32()),
    ]
)


@dataclass(frozen=True)
class ClassMix:
    """Holds shares of classes, each by name.

    Attributes:
        trained: Shares in the training data.
        predicted: Shares of the predicted labels of the archive.
        estimated: Shares in the archive, corrected for the classifier's errors.
        low: Lower end of the 95 % interval; none for a class without held-out images.
        high: Upper end; none likewise.
        is_shifted: Whether the mix differs from that of the training data beyond chance. Otherwise
            labels and probabilities stay as they are.
        held_out: Images of the training distribution that the mix is compared with.
        images: Rows of the table.
        changed: Rows whose label changed when they were adjusted.
    """

    trained: dict[str, float]
    predicted: dict[str, float]
    estimated: dict[str, float]
    low: dict[str, float | None]
    high: dict[str, float | None]
    is_shifted: bool
    held_out: int
    images: int
    changed: int

    def as_dict(self) -> dict[str, Any]:
        """Returns all attributes as JSON-compatible types."""
        return asdict(self)


def adjust_labels(output: str) -> ClassMix:
    """Writes `adjusted/table` and `adjusted/mix.json` next to a table.

    If an archive holds other shares of the classes than the training data, and the images of each
    class are alike, then p(y|x) of the archive is proportional to that of the model times the ratio
    of the shares (Saerens, Latinne and Decaestecker 2002). Where the shares do not differ beyond
    chance, nothing is adjusted.

    Args:
        output: The folder of a finished bulk job.

    Raises:
        InputError: The table or the model lacks what is needed; the message tells what.
    """
    archive = LabelledArchive(output)
    archive.require_vectors(*(() if "probabilities" in archive.columns else _NEEDED))
    classes = pa.array(archive.card.classes, pa.string())
    trained = np.asarray(archive.card.summaries.priors or [])
    if len(trained) != len(classes):
        raise InputError(
            f"{archive.card.path}: the model does not know the class shares of its training data;"
            " push it again with `vaeline run`"
        )
    posteriors, predicted = _sample(archive, classes)
    answers = archive.held_out()
    confusion = confusion_matrix(answers.given, answers.label, labels=range(len(classes)))
    estimated, low, high = estimate_mix(posteriors, trained, predicted, confusion)
    known = confusion.sum(axis=0)
    shifted = is_shifted(predicted, known)
    archive.ledger.remove(ADJUSTED)
    images = changed = 0
    for shard in archive.shards:
        rows, different = _write_shard(
            archive, shard, classes, estimated if shifted else trained, trained
        )
        images, changed = images + rows, changed + different

    def named(shares: np.ndarray) -> dict[str, Any]:
        kept = [None if np.isnan(share) else round(float(share), 6) for share in shares]
        return dict(zip(archive.card.classes, kept, strict=True))

    mix = ClassMix(
        trained=named(trained),
        predicted=named(predicted / predicted.sum()),
        estimated=named(estimated),
        low=named(low),
        high=named(high),
        is_shifted=shifted,
        held_out=int(known.sum()),
        images=images,
        changed=changed,
    )
    archive.ledger.write(MIX_FILE, json.dumps(mix.as_dict(), indent=2).encode() + b"\n")
    return mix


def estimate_mix(
    posteriors: np.ndarray, trained: np.ndarray, predicted: np.ndarray, confusion: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates class shares by maximum likelihood, within intervals that need no calibration.

    Maximum likelihood (Saerens et al. 2002) is the more accurate, but only where the model is
    calibrated. The intervals hold for any classifier, so that the estimate is moved into them: all
    shares by the same amount, cut off at the ends of each interval, so that the sum is 1.

    Args:
        posteriors: float [n, K], the model's probabilities for a sample of the archive.
        trained: float [K], class shares in the training data.
        predicted: int [K], predicted labels of the archive by class.
        confusion: int [K, K], held-out images by given and predicted class.

    Returns:
        The shares and both ends of their 95 % intervals, float64 [K] each. The ends are NaN for a
        class without held-out images.
    """
    likely = prior_shift(posteriors, trained)
    low, high = share_intervals(predicted, confusion)
    least, most = np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=1.0)

    def excess(moved: float) -> float:
        return float(np.clip(likely + moved, least, most).sum() - 1.0)

    moved = optimize.brentq(excess, -1.0, 1.0) if excess(-1.0) < 0.0 < excess(1.0) else 0.0
    estimated = np.clip(likely + moved, least, most)
    # Lower ends whose sum exceeds 1 contradict each other: the images of some class changed.
    estimated /= estimated.sum()
    return estimated, np.minimum(low, estimated), np.maximum(high, estimated)


def share_intervals(predicted: np.ndarray, confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns 95 % intervals of class shares, from predicted labels and the model's known errors.

    Black box shift estimation (Lipton, Wang and Smola 2018): the predicted labels have the shares
    m = C' q for the true shares q and C[k, l], the share of class k that is labelled l, so that
    q = A m for A the inverse of C'. Only C has to be that of the held-out images, whatever the
    probabilities. Each row of C has a Dirichlet prior with the weight of a = 1 image, whose mean is
    the accuracy over all classes on the diagonal, and the rest spread evenly. To first order

        var q_j = sum_l A[j, l]^2 (C' w)_l - q_j^2 / (n_j + a + 1) - q_j^2 / N,
        w_k = q_k^2 / (n_k + a + 1) + q_k / N

    for n_k held-out images of class k and N of the archive: the error of C and the draw of the
    archive. A larger share has a larger variance, so that the upper end solves
    (x - q_j)^2 = 1.96^2 var q_j at q_j = x instead (Fieller 1954). The interval of a class that the
    model hardly tells from others is wide, up to 0 to 1.

    Args:
        predicted: int [K], predicted labels of the archive by class.
        confusion: int [K, K], held-out images by given and predicted class.

    Returns:
        Lower and upper ends, float64 [K]; NaN for a class without held-out images. The intervals
        of the others hold if there are few images of such a class, or if the model knows it as well
        as the others.
    """
    known = confusion.sum(axis=1)
    accuracy = (np.trace(confusion) + 0.5) / (known.sum() + 1.0)
    classes, images = len(predicted), max(float(predicted.sum()), 1.0)
    prior = accuracy * np.eye(classes) + (1.0 - accuracy) / classes
    weight = known + _PRIOR_IMAGES
    rates = (confusion + _PRIOR_IMAGES * prior) / weight[:, None]
    try:
        inverse = np.linalg.inv(rates.T)
    except np.linalg.LinAlgError:
        return np.where(known > 0, 0.0, np.nan), np.where(known > 0, 1.0, np.nan)
    shares = inverse @ (predicted / images)
    within = np.maximum(shares, 0.0)
    within /= within.sum()
    errors = within**2 / (weight + 1.0)
    variances = inverse**2 @ (rates.T @ (errors + within / images)) - errors - within**2 / images
    quantile = stats.norm.ppf(0.975)
    half = quantile * np.sqrt(np.maximum(variances, 0.0))
    # Shares below 0 or above 1 are an error of their own, which must not narrow an interval.
    least, most = np.minimum(shares, within), np.maximum(shares, within)
    growth = np.maximum(np.sum(inverse**2 * rates, axis=1) - 1.0, 0.0) / (weight + 1.0)
    pull = np.minimum(quantile**2 * growth, 1.0 - 1e-9)
    reach = np.sqrt((pull * most) ** 2 + (1.0 - pull) * half**2)
    ends = [least - half, (most + reach) / (1.0 - pull)]
    low, high = np.where(known > 0, np.clip(ends, 0.0, 1.0), np.nan)
    return low, high


def is_shifted(predicted: np.ndarray, held_out: np.ndarray) -> bool:
    """Tests whether an archive's predicted labels have another mix than those of held-out images.

    Both mixes have the same errors where nothing shifted, however badly the probabilities are
    calibrated; maximum likelihood would take such a fault for a shift. Two-sample chi-square test,
    level 1 %.

    Args:
        predicted: int [K], predicted labels of the archive by class.
        held_out: int [K], the same for images of the training distribution.
    """
    known = int(held_out.sum())
    _, p_value, _ = two_sample(predicted, held_out / max(known, 1), known)
    return p_value < _LEVEL


def adjust(posteriors: np.ndarray, estimated: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Returns the probabilities under other class shares, float64 [n, K]."""
    weighted = posteriors * (estimated / np.maximum(trained, _LEAST))
    return weighted / np.maximum(weighted.sum(axis=1, keepdims=True), 1e-30)


def _sample(archive: LabelledArchive, classes: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Reads evenly spaced probabilities, and counts the predicted labels."""
    rows = archive.manifest["counts"]["rows"]
    if not rows:
        raise InputError(f"{archive.ledger.output}: the table has no rows")
    step = max(1, -(-rows // _MOST_ROWS))
    parts: list[np.ndarray] = []
    counts = np.zeros(len(classes))
    first = 0
    for shard in archive.shards:
        for batch in archive.rows(shard, *_COLUMNS):
            found = class_probabilities(pa.Table.from_batches([batch]), classes)
            counts += np.bincount(found.argmax(axis=1), minlength=len(classes))
            parts.append(found[-first % step :: step])
            first += batch.num_rows
    return np.concatenate(parts).astype(np.float64), counts


def _write_shard(
    archive: LabelledArchive,
    shard: str,
    classes: pa.Array,
    estimated: np.ndarray,
    trained: np.ndarray,
) -> tuple[int, int]:
    """Writes one file, and returns its rows and the number of labels that changed."""
    rows = changed = 0
    with files.writing(archive.ledger.path(posixpath.join(ADJUSTED, shard))) as file:
        sink = ParquetSink(file, _SCHEMA)
        for batch in archive.rows(shard, *_COLUMNS):
            table = pa.Table.from_batches([batch])
            found = adjust(class_probabilities(table, classes), estimated, trained)
            best = found.argmax(axis=1)
            labels = table["label"].cast(pa.string())
            adjusted = classes.take(pa.array(best))
            columns = [
                table["key"].combine_chunks(),
                labels.combine_chunks(),
                table["probability"].combine_chunks(),
                adjusted,
                pa.array(found[np.arange(len(best)), best].astype(np.float32)),
            ]
            sink.write(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))
            rows += len(best)
            changed += pc.sum(pc.not_equal(labels, adjusted)).as_py() or 0
        sink.close()
    return rows, changed
