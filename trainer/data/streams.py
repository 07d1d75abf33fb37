"""Builds the streams of the training step from the splits, for `train.py` and `loop.py`."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from trainer.config import TrainerConfig
from trainer.data import features
from trainer.data.batches import Feed, Order, build_feed
from trainer.data.input_pipeline import ImageSet, select
from trainer.optimization import strategy as strategies

_RESIDENT_LIMIT = 1 << 30
"""Maximum size in bytes of the images that stay on every device."""
_NO_PART_OF_IDENTITY = {
    "max_minutes",
    "steps_per_call",
    "tensorboard",
    "memory_limit_mb",
    "checkpoints",
    "calibration",
    "tuner",
    "devices",
    "importance_samples",
    # The digest of the base model is part of the identity instead.
    "warm_start",
}
"""Options that do not affect the weights."""


def learning_splits(data: Mapping[str, ImageSet], config: TrainerConfig) -> dict[str, ImageSet]:
    """Prepares the splits so that every image of the labelled stream has a label.

    Images of `train` without a label are added to the unlabelled ones.

    Raises:
        ValueError: there is nothing to learn from.
    """
    if features.TRAIN not in data or not len(data[features.TRAIN]):
        raise ValueError("the train split is empty: nothing to learn from")
    splits = {name: split for name, split in data.items() if len(split)}
    if config.early_stopping.patience and features.VALIDATION not in splits:
        raise ValueError(
            "trainer.early_stopping.patience: there is no validation split to watch; add one or "
            "set it to 0"
        )
    if not config.objective.alpha:
        return splits
    train_split = splits[features.TRAIN]
    labelled = train_split.labels >= 0
    if not labelled.any():
        raise ValueError(
            "the train split has no labels; label some images, or set trainer.objective.alpha to 0"
        )
    if labelled.all():
        return splits
    limit = config.memory_limit_mb << 20
    free: list[tuple[ImageSet, np.ndarray | None]] = [(train_split, np.flatnonzero(~labelled))]
    if features.UNLABELLED in splits:
        free.insert(0, (splits[features.UNLABELLED], None))
    kept = [(train_split, np.flatnonzero(labelled))]
    return {
        **splits,
        features.TRAIN: select(kept, memory_limit_bytes=limit),
        features.UNLABELLED: select(free, memory_limit_bytes=limit),
    }


def combine(
    splits: Mapping[str, ImageSet], names: Iterable[str], config: TrainerConfig
) -> ImageSet:
    """Combines all images of the named splits, in a file if they pass `trainer.memory_limit_mb`."""
    parts = [(splits[name], None) for name in names]
    return select(parts, memory_limit_bytes=config.memory_limit_mb << 20)


def create_feeds(
    config: TrainerConfig, splits: Mapping[str, ImageSet], strategy: Any
) -> list[Feed]:
    """Creates the feed of the train split and, if it is used, of the unlabelled stream."""
    strategies.check_parts(config.parts, strategy)
    strategies.replica_share("trainer.batch_size", config.batch_size, strategy, config.parts)
    streams = [(features.TRAIN, splits[features.TRAIN], config.batch_size)]
    semi = config.semi_supervised
    if config.learns_unlabelled and features.UNLABELLED in splits:
        size = semi.batch_size or config.batch_size
        strategies.replica_share("trainer.semi_supervised.batch_size", size, strategy, config.parts)
        names = [features.UNLABELLED, *([features.TRAIN] if semi.include_train else [])]
        streams.append((features.UNLABELLED, combine(splits, names, config), size))
    return [
        build_feed(
            split,
            size,
            Order(len(split), config.seed, name),
            strategy,
            resident_limit_bytes=_RESIDENT_LIMIT,
        )
        for name, split, size in streams
    ]


def run_identity(
    config: TrainerConfig,
    model: dict[str, Any],
    splits: Mapping[str, ImageSet],
    replicas: int,
    base: str = "",
) -> str:
    """Computes the digest of everything the weights depend on, which identifies a run.

    Args:
        config: options of the training.
        model: result of the model's `get_config()`.
        splits: images by split name.
        replicas: number of replicas.
        base: digest of the weights that the model starts from; empty for a cold start.
    """
    part = config.model_dump(mode="json", exclude=_NO_PART_OF_IDENTITY)
    options = [part, model, replicas, *([base] if base else [])]
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for name, split in sorted(splits.items()):
        digest.update(f"{name} {split.digest}".encode())
    return digest.hexdigest()
