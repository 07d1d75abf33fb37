"""Computes the trained model's predictions for the test split with its exported signature.

The signature is called once, in batches. This is the only part of the run report that needs
TensorFlow, which is imported when it is called.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from more_itertools import constrained_batches

from pipeline.report.sampled_records import sample_split
from serving import names
from trainer.data import features
from trainer.model_card import ModelCard

_MOST_IMAGES: Final = 10_000
_MOST_BYTES: Final = 128 * 1024 * 1024
_MOST_VALUES: Final = 20_000_000
"""Maximum number of pixel values at the model's size; bounds the time for large images."""
BATCH: Final = 512
"""Maximum number of images of a batch."""
BATCH_BYTES: Final = 16 * 1024 * 1024
Parsed = tuple[list[bytes], list[str], list[bytes], list[bytes]]
"""Image files, names, labels (empty if missing) and SHA-256 of some records."""
_OUTPUTS: Final = (
    names.PROBABILITIES, names.EMBEDDING, names.OUTLIER_SCORE, names.ELBO, names.VERDICT,
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """A sample of the test split with the model's predictions.

    Attributes:
        encoded: image files, in source order.
        names: `archive/member` of each.
        labels: int [n], indices of the given classes; -1 if the label is missing or unknown.
        probabilities: float32 [n, K], calibrated.
        embedding: float32 [n, d].
        scores: float32 [n], outlier scores.
        verdicts: verdict of each image.
        classes: class names by index.
        total: number of images in the whole split.
        thumbnails: returns pictures of original files by name, see `Originals.thumbnails`.
    """

    encoded: list[bytes]
    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    embedding: np.ndarray
    scores: np.ndarray
    verdicts: list[str]
    classes: list[str]
    total: int
    thumbnails: Callable[[Iterable[str]], Mapping[str, np.ndarray]] = lambda names: {}

    def __len__(self) -> int:
        return len(self.encoded)

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """The most probable classes, int [n]."""
        return self.probabilities.argmax(axis=1)

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """The probabilities of the most probable classes, float32 [n]."""
        return self.probabilities.max(axis=1)


def ask_model(examples: Path, model: Any, card: ModelCard) -> Answers:
    """Computes the model's predictions for an evenly spaced sample of the test split.

    Args:
        examples: The Examples artifact.
        model: The loaded SavedModel.
        card: The model's card.

    Raises:
        MissingPartError: there is no test split.
    """
    values = int(np.prod(card.image_shape))
    most = min(_MOST_IMAGES, max(BATCH, _MOST_VALUES // values))
    sampled = sample_split(examples, features.TEST, most=most, most_bytes=_MOST_BYTES)
    classes = list(card.classes)
    numbers = {name.encode(): number for number, name in enumerate(classes)}
    encoded, keys, labels, _ = parse_in_parts(sampled.records)
    parts = [
        ask_batch(model, batch)
        for batch in constrained_batches(encoded, BATCH_BYTES, BATCH, strict=False)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in _OUTPUTS}
    return Answers(
        encoded=encoded,
        names=keys,
        labels=np.array([numbers.get(label, -1) for label in labels], np.int64),
        probabilities=joined[names.PROBABILITIES],
        embedding=joined[names.EMBEDDING],
        scores=joined[names.OUTLIER_SCORE],
        verdicts=[verdict.decode() for verdict in joined[names.VERDICT]],
        classes=classes,
        total=sampled.total,
    )


def ask_batch(model: Any, encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Computes the model's outputs for a batch of image files."""
    import tensorflow as tf

    annotate = model.signatures[names.ANNOTATE]
    answer = annotate(**{names.IMAGE_BYTES: tf.constant(encoded, tf.string)})
    return {name: answer[name].numpy() for name in _OUTPUTS}


def parse_in_parts(records: Iterable[bytes]) -> Parsed:
    """Parses records a few at a time, because parsing copies every image three times."""
    parsed: Parsed = ([], [], [], [])
    for batch in constrained_batches(records, BATCH_BYTES, BATCH, strict=False):
        columns: Iterable[tuple[list[Any], list[Any]]] = zip(
            parsed, parse_examples(batch), strict=True
        )
        for column, found in columns:
            column += found
    return parsed


def parse_examples(records: Sequence[bytes]) -> Parsed:
    """Reads the features of `Parsed` from serialised tf.Examples."""
    import tensorflow as tf

    text = tf.io.FixedLenFeature([], tf.string, default_value="")
    wanted = (features.ENCODED, features.FILENAME, features.LABEL_TEXT, features.SHA256)
    if not records:
        return [], [], [], []
    parsed = tf.io.parse_example(tf.constant(records), dict.fromkeys(wanted, text))
    encoded, keys, labels, digests = (parsed[name].numpy().tolist() for name in wanted)
    return encoded, [key.decode("utf-8", "replace") for key in keys], labels, digests
