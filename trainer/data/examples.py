"""Loads splits from a folder of Examples without TFX, for `python -m trainer`.

It reads two layouts: `Split-train/*`, as in TFX's artifacts, and `train*.tfrecord*`.
"""

import os

import numpy as np
import tensorflow as tf

from trainer.config import ImageConfig
from trainer.data import features
from trainer.data.input_pipeline import DecodeFn, ImageSet, example_files, load_splits
from trainer.data.pixels import decode_batch
from trainer.storage import files


def split_patterns(folder: str) -> dict[str, list[str]]:
    """Returns file globs of the Examples by split, for the splits that exist.

    Raises:
        ValueError: no split is found.
    """
    found = {}
    for split in features.SPLITS:
        for pattern in (f"Split-{split}/*", f"{split}*.tfrecord*"):
            path = os.path.join(folder, pattern)
            if files.matching(path):
                found[split] = [path]
                break
    if features.TRAIN not in found:
        raise ValueError(
            f"{folder}: no Examples to train on; expected Split-train/* or train*.tfrecord*"
        )
    return found


def class_names(patterns: list[str]) -> list[str]:
    """Returns the labels that occur in the Examples, sorted."""
    files = example_files(patterns)
    compression = "GZIP" if files[0].endswith(".gz") else ""
    spec = {features.LABEL_TEXT: tf.io.FixedLenFeature([], tf.string, "")}
    names: set[bytes] = set()
    records = tf.data.TFRecordDataset(files, compression_type=compression)
    labels = records.map(
        lambda serialised: tf.io.parse_single_example(serialised, spec)[features.LABEL_TEXT]
    )
    for batch in labels.batch(4096):
        names.update(np.unique(batch.numpy()).tolist())
    return sorted(name.decode() for name in names if name)


def decoder(image: ImageConfig, classes: list[str]) -> DecodeFn:
    """Returns a function that decodes Examples into images of the configured size and labels."""
    spec = {
        features.ENCODED: tf.io.FixedLenFeature([], tf.string),
        features.LABEL_TEXT: tf.io.FixedLenFeature([], tf.string, ""),
    }
    names = tf.constant(classes or [""])
    numbers = tf.range(len(classes), dtype=tf.int64) if classes else tf.constant([-1], tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(names, numbers), -1)

    def decode(serialised: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(serialised, spec)
        images = decode_batch(parsed[features.ENCODED], image)
        return images, table.lookup(parsed[features.LABEL_TEXT])

    return decode


def load_folder(
    folder: str, image: ImageConfig, *, memory_limit_bytes: int, cache_dir: str
) -> tuple[dict[str, ImageSet], list[str]]:
    """Loads all splits of a folder of Examples, and the classes of the train split.

    Raises:
        ValueError: there is nothing to train on.
    """
    patterns = split_patterns(folder)
    classes = class_names(patterns[features.TRAIN])
    splits = load_splits(
        patterns,
        decoder(image, classes),
        image_shape=image.shape,
        memory_limit_bytes=memory_limit_bytes,
        cache_dir=cache_dir,
    )
    return splits, classes


def pixel_moments(data: ImageSet) -> tuple[list[float], list[float]]:
    """Computes the mean and standard deviation of each channel, for pixels in [0, 1]."""
    counts = np.stack([np.zeros(256, np.int64) for _ in range(data.images.shape[-1])])
    for start in range(0, len(data), 4096):
        part = data.images[start : start + 4096]
        for channel, count in enumerate(counts):
            count += np.bincount(part[..., channel].reshape(-1), minlength=256)
    levels = np.arange(256) / 255.0
    shares = counts / counts.sum(axis=1, keepdims=True)
    means = shares @ levels
    variances = shares @ np.square(levels) - np.square(means)
    return means.tolist(), np.sqrt(np.maximum(variances, 1e-6)).tolist()
