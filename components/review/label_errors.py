"""Ranks the labels that an archive gives by how likely they are wrong.

`vaeline review labels` calls it, on the table of a bulk job over labelled images, and the report of
a run, on its splits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from components.bulk_inference.output.ledger import REVIEW
from components.bulk_inference.output.table_rows import class_probabilities, vectors
from components.review.labelled_archive import LabelledArchive
from components.review.queue_file import (
    GIVEN,
    QueueFacts,
    QueueRow,
    require_replaceable,
    write_queue,
)
from trainer.errors import InputError
from trainer.name_lists import named
from trainer.storage import files

RANKING_FILE: Final = f"{REVIEW}/label_errors.parquet"

_FOLDS: Final = 5
_NEIGHBOURS: Final = 25
_MOST_KNOWN: Final = 50_000
"""Images that a fold's classifier learns from, and among which neighbours are looked for; more
change the ranking little and would take quadratic time."""
_LEAST: Final = 1e-6
"""Smallest probability, so that logarithms are finite."""
_SEED: Final = 20261129

_COLUMNS: Final = (
    "key", "source", "member", "given_label", "embedding", "probabilities", "top_k_labels",
    "top_k_probabilities", "outlier_score", "elbo",
)  # fmt: skip
_NEEDED: Final = ("given_label", "embedding", "top_k_labels", "top_k_probabilities")


@dataclass(frozen=True)
class LabelErrors:
    """Holds the judged labels, most doubtful first.

    Attributes:
        rows: `key`, `source`, `member`, `given_label`; `suggested`, the most probable other or the
            same label; `probability_given` and `probability_suggested`, out of fold; `neighbours`,
            share of the nearest images with the given label; `outlier_score` and `elbo`, where the
            table has them; `score`, the log-odds against the given label.
        unjudged: Images with a label that the model does not know, or that no other image has.
        wrong: Estimate of the number of wrong labels of each given class, by confident learning.
    """

    rows: pa.Table
    unjudged: int
    wrong: Mapping[str, float]

    @property
    def estimated(self) -> int:
        """Estimate of the number of wrong labels."""
        return round(sum(self.wrong.values()))


@dataclass(frozen=True)
class GivenLabels:
    """Holds n images with a label that can be judged.

    Attributes:
        facts: The columns for people, n rows.
        embeddings: float32 [n, d], standardised.
        label: int64 [n], number of the given class.
        probabilities: float64 [n, K], predicted without the image's own label.
        unjudged: Images with a label that the model does not know, or that no other image has.
    """

    facts: pa.Table
    embeddings: np.ndarray
    label: np.ndarray
    probabilities: np.ndarray
    unjudged: int


def find_label_errors(archive: LabelledArchive) -> LabelErrors:
    """Ranks the given labels of a table, see `rank_labels`.

    Args:
        archive: The table of a bulk job over images with labels.

    Raises:
        InputError: The table lacks columns, or has too few labels.
    """
    return rank_labels(*read_given_labels(archive), archive.manifest["model"]["classes"])


def rank_labels(
    facts: pa.Table, features: np.ndarray, label: np.ndarray, classes: Sequence[str]
) -> LabelErrors:
    """Ranks given labels.

    The score of a label is the log-odds of the best other class against it, by the product of the
    probability out of fold and the share of the 25 nearest neighbours.

    Args:
        facts: The columns for people, n rows.
        features: float32 [n, d + K], embeddings and log probabilities.
        label: int64 [n], number of each given class; -1 if it is none of the classes.
        classes: The K names.

    Raises:
        InputError: There are too few labels.
    """
    given = predict_out_of_fold(facts, features, label, len(classes))
    votes = _votes(given.embeddings, given.label, len(classes))
    evidence = np.log(given.probabilities) + np.log(votes)
    places = np.arange(len(evidence))
    own = evidence[places, given.label]
    evidence[places, given.label] = -np.inf
    score = evidence.max(axis=1) - own
    suggested = np.where(score > 0, evidence.argmax(axis=1), given.label)
    rows = given.facts.append_column("suggested", pa.array([classes[at] for at in suggested]))
    for name, values in (
        ("probability_given", given.probabilities[places, given.label]),
        ("probability_suggested", given.probabilities[places, suggested]),
        ("neighbours", votes[places, given.label]),
        ("score", score),
    ):
        rows = rows.append_column(name, pa.array(values.astype(np.float32)))
    order = np.argsort(-score, kind="stable")
    wrong = _confident_errors(given.probabilities, given.label)
    by_class = dict(zip(classes, wrong.tolist(), strict=True))
    return LabelErrors(rows.take(pa.array(order)), given.unjudged, by_class)


def predict_out_of_fold(
    facts: pa.Table, features: np.ndarray, label: np.ndarray, classes: int
) -> GivenLabels:
    """Predicts each given label without it.

    A logistic regression on the embedding and the model's log probabilities learns from four fifths
    of the images and predicts the others, because the model may have learned wrong labels by heart.
    With the ranking it takes about 8 d + 50 K + 350 bytes of memory per image, for d latent
    dimensions and K classes.

    Args:
        facts: The columns for people, n rows.
        features: float32 [n, d + K], embeddings and log probabilities.
        label: int64 [n], number of each given class; -1 if it is none of the classes.
        classes: K.

    Raises:
        InputError: There are too few labels.
    """
    judged = label >= 0
    judged &= np.bincount(label[judged], minlength=classes)[label] > 1
    if not judged.any():
        given = pc.unique(facts["given_label"].cast(pa.string())).drop_null().to_pylist()
        but = f", but {named(map(repr, given))}" * bool(given)
        names = ", or name the classes of these numbers: input.labels.names"
        advice = names * any(label.isdigit() for label in given)
        raise InputError(
            f"no two images have a label that the model knows{but}; give an archive with"
            f" labels{advice}"
        )
    features = StandardScaler(copy=False).fit_transform(features[judged])
    label = label[judged]
    return GivenLabels(
        facts.filter(pa.array(judged)),
        features[:, :-classes],
        label,
        _out_of_fold(features, label, classes),
        unjudged=int((~judged).sum()),
    )


def create_label_queue(
    output: str, *, most: int = 1_000, overwrite: bool = False
) -> tuple[QueueFacts, list[QueueRow]]:
    """Writes a queue of the given labels that are probably wrong.

    Args:
        output: The folder of a finished bulk job over an archive with labels.
        most: Largest number of images to list; `review/label_errors.parquet` ranks all of them.
        overwrite: Whether to replace a queue with answers.

    Raises:
        InputError: The table cannot be judged, or a queue with answers is there.
    """
    archive = LabelledArchive(output)
    require_replaceable(archive, overwrite=overwrite)
    found = find_label_errors(archive)
    with files.writing(archive.ledger.path(RANKING_FILE)) as file:
        pq.write_table(found.rows, file, compression="zstd")
    doubtful = found.rows.filter(pc.greater(found.rows["score"], 0.0)).slice(0, most)
    rows = [
        QueueRow(
            key=row["key"],
            source=row.get("source") or "",
            member=row.get("member") or "",
            label=row["suggested"],
            probability=row["probability_suggested"],
            outlier_score=row.get("outlier_score"),
            given_label=row["given_label"],
            why=GIVEN,
        )
        for row in doubtful.to_pylist()
    ]
    facts = QueueFacts(
        table_written=archive.manifest["written"],
        risk=0.0,
        confidence=0.0,
        images=found.rows.num_rows,
        review=len(rows),
        accepted=found.rows.num_rows - len(rows),
        listed={GIVEN: len(rows)},
        wrong_given=found.estimated,
    )
    write_queue(archive, facts, rows)
    return facts, rows


def read_given_labels(archive: LabelledArchive) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Reads the table.

    Returns:
        The columns for people, float32 [n, d + K] embeddings and log probabilities, and int64 [n]
        the number of each given label, -1 if it is none of the classes.

    Raises:
        InputError: The table lacks columns.
    """
    archive.require_vectors(*_NEEDED)
    known = pa.array(archive.manifest["model"]["classes"], pa.string())
    parts: list[pa.Table] = []
    features: list[np.ndarray] = []
    given: list[np.ndarray] = []
    for shard in archive.shards:
        for batch in archive.rows(shard, *_COLUMNS):
            table = pa.Table.from_batches([batch])
            labels = table["given_label"].cast(pa.string())
            keep = [n for n in _COLUMNS if n in table.schema.names and n not in _VECTORS]
            part = table.select(keep)
            for place, name in enumerate(keep):
                if pa.types.is_dictionary(part.schema.field(name).type):
                    part = part.set_column(place, name, part[name].cast(pa.string()))
            parts.append(part)
            numbers = pc.fill_null(pc.index_in(labels, value_set=known), -1)
            given.append(numbers.to_numpy().astype(np.int64))
            probabilities = class_probabilities(table, known)
            features.append(judged_features(vectors(table["embedding"]), probabilities))
    return pa.concat_tables(parts), np.concatenate(features), np.concatenate(given)


def judged_features(embeddings: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns what labels are predicted from, float32 [n, d + K]."""
    logs = np.log(np.maximum(probabilities, _LEAST))
    return np.concatenate([embeddings, logs], axis=1, dtype=np.float32)


_VECTORS: Final = ("embedding", "probabilities", "top_k_labels", "top_k_probabilities")


def _out_of_fold(features: np.ndarray, given: np.ndarray, classes: int) -> np.ndarray:
    """Returns float64 [n, K], each row predicted without its own label."""
    probabilities = np.full((len(given), classes), _LEAST)
    folds = min(_FOLDS, int(np.bincount(given).max()))
    random = np.random.default_rng(_SEED)
    division = StratifiedKFold(folds, shuffle=True, random_state=0)
    for learned, left in division.split(features, given):
        sample = random.permutation(learned)[:_MOST_KNOWN]
        if len(np.unique(given[sample])) < 2:
            probabilities[left, given[sample[0]]] = 1.0
            continue
        head = LogisticRegression(max_iter=200).fit(features[sample], given[sample])
        probabilities[left[:, None], head.classes_] = head.predict_proba(features[left])
    return np.maximum(probabilities, _LEAST)


def _votes(embeddings: np.ndarray, given: np.ndarray, classes: int) -> np.ndarray:
    """Returns float64 [n, K], shares of the labels of each image's neighbours, smoothed."""
    bank = np.random.default_rng(_SEED).permutation(len(given))[:_MOST_KNOWN]
    nearest = min(_NEIGHBOURS, len(bank) - 1)
    search = NearestNeighbors(n_neighbors=nearest + 1).fit(embeddings[bank])
    votes = np.full((len(given), classes), 0.1)
    for begin in range(0, len(given), _MOST_KNOWN):
        rows = np.arange(begin, min(begin + _MOST_KNOWN, len(given)))
        found = bank[search.kneighbors(embeddings[rows], return_distance=False)]
        # Each image of the bank finds itself; of the others the farthest is left out.
        others = found != rows[:, None]
        others[others.all(axis=1), -1] = False
        for place in range(nearest + 1):
            chosen = others[:, place]
            np.add.at(votes, (rows[chosen], given[found[chosen, place]]), 1.0)
    return votes / votes.sum(axis=1, keepdims=True)


def _confident_errors(probabilities: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Estimates the number of wrong labels by confident learning (Northcutt et al. 2021).

    Returns float64 [K], by given class.

    An image counts for a class whose probability is at least its mean over images with that label.
    Each row of the counts is scaled to the number of images with the label.
    """
    classes = probabilities.shape[1]
    there = np.bincount(given, minlength=classes)
    means = np.array(
        [probabilities[given == k, k].mean() if there[k] else np.inf for k in range(classes)]
    )
    above = np.where(probabilities >= means, probabilities, -1.0)
    confident = above.max(axis=1) >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (given[confident], above[confident].argmax(axis=1)), 1.0)
    scaled = joint * (there / np.maximum(joint.sum(axis=1), 1.0))[:, None]
    return scaled.sum(axis=1) - scaled.diagonal()
