"""Trains from several random starts and goes on with the one that images without labels choose.

`trainer/train.py` calls it. With few labels, a class can take a part of another one early on, and
what follows confirms it; another random start need not. The border of such a class lies between
images that look alike, and no label is needed to see that.
"""

import gc
import json
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import TrainerConfig
from trainer.data import features
from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.optimization import strategy as strategies
from trainer.optimization.callbacks import STARTS
from trainer.optimization.loop import TrainingLoop
from trainer.optimization.stages import TrainingStage
from trainer.progress import PROGRESS_LOGGER
from trainer.quality.evaluation import predict_logits
from trainer.storage import files

_PROGRESS = logging.getLogger(PROGRESS_LOGGER)

_MOST_IMAGES = 10_000
_MOST_SIDE = 32
_NEIGHBOURS = 10
_PART = 500
SEED_STEP = 1_000_003
"""Distance of the starts' seeds, so that runs with seeds 1, 2, 3 share none."""

LoopFn = Callable[[TrainerConfig, TrainingStage], TrainingLoop]
"""Creates the loop of a stage from its options."""


def begin(create: LoopFn, config: TrainerConfig, stage: TrainingStage) -> TrainingLoop:
    """Creates the loop of a training and restores its state.

    With `trainer.semi_supervised.starts` above 1, each start trains for `starts_share` of the steps
    in a folder of its own, and the loop goes on from the best. A killed run keeps what is done.

    Args:
        create: creates a loop.
        config: options of the training.
        stage: the stage whose loop is wanted.

    Returns:
        The loop, restored from its newest checkpoint, if there is one.

    Raises:
        ValueError: several workers would have to agree on a start.
        preemption.PreemptedError: a stop was requested; the state is saved.
    """
    number = 0
    if config.count_starts(len(stage.splits.get(features.UNLABELLED, ()))) > 1:
        if strategies.is_clustered(stage.strategy):
            raise ValueError(
                "trainer.semi_supervised.starts: several workers can't choose a start together; "
                "set it to 1, or train on one"
            )
        number = _choose(create, config, stage)
    run = create(_start_options(config, number), stage)
    run.restore()
    return run


def _choose(create: LoopFn, config: TrainerConfig, stage: TrainingStage) -> int:
    """Trains the starts, copies the best one's state to the stage's folder, returns its number."""
    unlabelled = stage.splits[features.UNLABELLED]
    path = os.path.join(stage.workdir, STARTS)
    record: dict[str, Any] = json.loads(files.read_bytes(path)) if files.exists(path) else {}
    scores: list[float] = record.get("scores", [])
    semi = config.semi_supervised
    for number in range(len(scores), semi.starts):
        run = create(_start_options(config, number, trial=True), _trial(stage, number))
        run.restore()
        run.loop(semi.starts_share)
        scores.append(_score(run.finish(), unlabelled, config.evaluation_batch_size))
        files.write_bytes(path, json.dumps({"scores": scores}).encode())
        _PROGRESS.info(
            "start %d of %d: %.2f %% of the nearest unlabelled images have another class",
            number + 1, semi.starts, 100 * scores[-1],
        )  # fmt: skip
        # Its images, copies of weights and graphs would otherwise last beside those of the next.
        del run
        gc.collect()
    best = int(np.argmin(scores))
    if "chosen" not in record:
        _PROGRESS.info("start %d goes on", best + 1)
        files.copy_tree(_trial(stage, best).workdir, stage.workdir)
        files.write_bytes(path, json.dumps({"scores": scores, "chosen": best}).encode())
    return best


def neighbour_disagreement(images: np.ndarray, classes: np.ndarray) -> float:
    """Measures how often one of an image's nearest images has another class.

    A boundary between classes that lies where images are few is crossed by few of these pairs
    (the cluster assumption, Chapelle and Zien 2005). Distances are between pixels, at 32 pixels a
    side or fewer, which no model has changed.

    Args:
        images: uint8 [n, height, width, channels].
        classes: predicted classes, int [n].

    Returns:
        Share of the pairs of an image and one of its ten nearest others, between 0 and 1.
    """
    from sklearn.neighbors import NearestNeighbors  # Slow to import, and rarely used.

    near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(images) - 1), algorithm="brute")
    # Without a query of its own, no image is its own neighbour.
    found = near.fit(_small(images)).kneighbors(return_distance=False)
    return float(np.mean(classes[found] != classes[:, np.newaxis]))


def _small(images: np.ndarray) -> np.ndarray:
    """Scales images down to bound the memory of a search, float32 [n, values]."""
    size = [min(side, _MOST_SIDE) for side in images.shape[1:3]]
    parts = [
        tf.image.resize(images[begin : begin + _PART], size, "area").numpy()
        for begin in range(0, len(images), _PART)
    ]
    return np.concatenate(parts).reshape(len(images), -1)


def _score(model: VaeClassifier, unlabelled: ImageSet, batch_size: int) -> float:
    count = min(_MOST_IMAGES, len(unlabelled))
    images = unlabelled.images[np.linspace(0, len(unlabelled) - 1, count).astype(int)]
    classes = predict_logits(model, images, batch_size).argmax(axis=-1)
    return neighbour_disagreement(images, classes)


def _trial(stage: TrainingStage, number: int) -> TrainingStage:
    return stage.earlier(f"start-{number + 1}")


def _start_options(config: TrainerConfig, number: int, *, trial: bool = False) -> TrainerConfig:
    changes: dict[str, Any] = {"seed": (config.seed + number * SEED_STEP) % 2**31}
    if trial:
        # The curves of several starts would mix.
        changes["tensorboard"] = False
    return config.model_copy(update=changes)
