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
from scipy import stats

from components.bulk_inference.drift.comparison import prior_shift, two_sample
from components.bulk_inference.output.ledger import ADJUSTED
from components.review.labelled_archive import LabelledArchive, class_probabilities
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
        low: Lower end of the 95 % interval of `estimated`.
        high: Upper end.
        is_shifted: Whether the mix differs from that of the training data beyond chance. Otherwise
            labels and probabilities stay as they are.
        held_out: Images of the training distribution that the mix is compared with.
        images: Rows of the table.
        changed: Rows whose label changed when they were adjusted.
    """

    trained: dict[str, float]
    predicted: dict[str, float]
    estimated: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
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
    estimated, errors = estimate_mix(posteriors, trained)
    known = np.bincount(archive.held_out().label, minlength=len(classes))
    shifted = is_shifted(predicted, known)
    archive.ledger.remove(ADJUSTED)
    images = changed = 0
    for shard in archive.shards:
        rows, different = _write_shard(
            archive, shard, classes, estimated if shifted else trained, trained
        )
        images, changed = images + rows, changed + different
    half = stats.norm.ppf(0.975) * errors

    def named(shares: np.ndarray) -> dict[str, float]:
        kept = np.clip(shares, 0.0, 1.0).round(6).tolist()
        return dict(zip(archive.card.classes, kept, strict=True))

    mix = ClassMix(
        trained=named(trained),
        predicted=named(predicted / predicted.sum()),
        estimated=named(estimated),
        low=named(estimated - half),
        high=named(estimated + half),
        is_shifted=shifted,
        held_out=int(known.sum()),
        images=images,
        changed=changed,
    )
    archive.ledger.write(MIX_FILE, json.dumps(mix.as_dict(), indent=2).encode() + b"\n")
    return mix


def estimate_mix(posteriors: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimates class shares by maximum likelihood, with standard errors.

    The errors come from the observed Fisher information of the shares, constrained to sum to 1.
    They cover the draw of the archive, not a fault in the classifier's calibration.

    Args:
        posteriors: float [n, K], the model's calibrated probabilities.
        trained: float [K], class shares in the training data.

    Returns:
        Shares and standard errors, float64 [K] each.
    """
    estimated = prior_shift(posteriors, trained)
    ratios = posteriors / np.maximum(trained, _LEAST)
    scores = ratios / np.maximum(ratios @ estimated, _LEAST)[:, None]
    inverse = np.linalg.pinv(scores.T @ scores)
    across = inverse.sum(axis=1)
    covariance = inverse - np.outer(across, across) / max(across.sum(), _LEAST**2)
    return estimated, np.sqrt(np.maximum(np.diag(covariance), 0.0))


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
