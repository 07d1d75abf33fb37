"""What the trained model says of the test split: its exported signature, asked once, in batches.

The only part of the run report that needs TensorFlow, imported when it is called.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.report.sampled_records import sample_split
from serving import names
from trainer import features
from trainer.model_card import ModelCard

_MOST_IMAGES: Final = 10_000
_MOST_BYTES: Final = 128 * 1024 * 1024
_MOST_VALUES: Final = 20_000_000
"""Pixel values at the model's size: bounds the time where images are large."""
_BATCH: Final = 512
_OUTPUTS: Final = (names.PROBABILITIES, names.EMBEDDING, names.OUTLIER_SCORE, names.VERDICT)


@dataclass(frozen=True)
class Answers:
    """A sample of the test split with the model's answers.

    Attributes:
        encoded: image files, in source order.
        names: `archive/member` of each.
        labels: int [n], numbers of the given classes; -1 where there is none or it is unknown.
        probabilities: float32 [n, K], calibrated.
        embedding: float32 [n, d].
        scores: float32 [n], outlier scores.
        verdicts: of each image.
        classes: names by number.
        total: images of the whole split.
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

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest classes, int [n]."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Their probabilities, float32 [n]."""
        return self.probabilities.max(axis=1)


def ask_model(examples: Path, model: Any, card: ModelCard) -> Answers:
    """Asks the model about an even sample of the test split.

    Args:
        examples: The Examples artifact.
        model: The loaded SavedModel.
        card: Its card.

    Raises:
        MissingPartError: there is no test split.
    """
    import tensorflow as tf

    values = int(np.prod(card.image_shape))
    most = min(_MOST_IMAGES, max(_BATCH, _MOST_VALUES // values))
    sampled = sample_split(examples, features.TEST, most=most, most_bytes=_MOST_BYTES)
    classes = list(card.classes)
    numbers = {name.encode(): number for number, name in enumerate(classes)}
    annotate = model.signatures[names.ANNOTATE]
    encoded, keys, labels = parse_examples(sampled.records)
    parts = []
    for begin in range(0, len(encoded), _BATCH):
        batch = tf.constant(encoded[begin : begin + _BATCH], tf.string)
        answer = annotate(**{names.IMAGE_BYTES: batch})
        parts.append({name: answer[name].numpy() for name in _OUTPUTS})
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


def parse_examples(records: list[bytes]) -> tuple[list[bytes], list[str], list[bytes]]:
    """Image file, name and label (empty without one) of each record."""
    import tensorflow as tf

    text = tf.io.FixedLenFeature([], tf.string, default_value="")
    wanted = (features.ENCODED, features.FILENAME, features.LABEL_TEXT)
    if not records:
        return [], [], []
    parsed = tf.io.parse_example(tf.constant(records), dict.fromkeys(wanted, text))
    encoded, keys, labels = (parsed[name].numpy().tolist() for name in wanted)
    return encoded, [key.decode("utf-8", "replace") for key in keys], labels
