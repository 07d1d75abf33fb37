"""How often the nearest embedding is of the same class, by what the classifier reads.

`python -m benchmarks.similar_images --data DIR --epochs 60 --seeds 1 2 3`
For each set and each `model.classifier_input` one training per seed. Every fifth image is held out
and asked for its nearest images among those of the training, by Euclidean distance of the
embeddings. No test image is used, so that the figures may decide a recipe. `--only` names sets.
"""

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from sklearn.neighbors import NearestNeighbors

from benchmarks.image_sets import cifar, mnist, record, sign_photos, split_off
from benchmarks.trainings import measure, recipe, run_training, started, training_parser
from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.quality.evaluation import Forward

_INPUTS: Final = ("features", "both", "mean")
_NEAREST: Final = 5
_BATCH: Final = 250
_PHOTO_SIDE: Final = 64
_MNIST_IMAGES: Final = 12_000
_MEASURES: Final = ("accuracy", "cross_entropy", "elbo", "bits_per_dimension")


def _signs(data: Path) -> ImageSet:
    """The photographs of `sign_digits.zip`, area-averaged to 64 x 64 pixels."""
    images, labels = [], []
    for label, content in sign_photos(data):
        photo = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        side = (_PHOTO_SIDE, _PHOTO_SIDE)
        images.append(cv2.resize(photo, side, interpolation=cv2.INTER_AREA)[..., ::-1])
        labels.append(int(label))
    return ImageSet(np.stack(images), np.array(labels, np.int32))


_SETS: Final[Mapping[str, tuple[str, Callable[[Path], ImageSet]]]] = {
    "signs": ("conv_photos", _signs),
    "cifar": ("conv_colour", lambda data: cifar(data)[0]),
    "mnist": ("conv_grey", lambda data: mnist(data)[0].take(np.arange(_MNIST_IMAGES))),
}
"""Recipe and images by name of a set."""


def same_class(model: VaeClassifier, known: ImageSet, asked: ImageSet) -> dict[str, float]:
    """Measures how many of the nearest images have the class of the image that was asked for."""
    embed = Forward(
        lambda pixels: {"embedding": model.encode(pixels).mean}, known.images.shape[1:], _BATCH
    )
    index = NearestNeighbors(n_neighbors=_NEAREST).fit(embed(known.images)["embedding"])
    places = index.kneighbors(embed(asked.images)["embedding"], return_distance=False)
    hits = known.labels[places] == asked.labels[:, np.newaxis]
    return {"nearest": float(hits[:, 0].mean()), "nearest_5": float(hits.mean())}


def main() -> None:
    """Trains once per set, input and seed, and prints the record."""
    arguments = _arguments()
    runs: dict[str, dict[str, float]] = {}
    for name in arguments.only:
        chosen, load = _SETS[name]
        full = load(arguments.data)
        fifth = len(full) // 5
        for seed in arguments.seeds:
            data = split_off(full, {"held_out": fifth, "calibration": fifth // 2}, seed=seed)
            held_out = data.pop("held_out")
            for source in arguments.inputs:
                model, trainer = recipe(
                    chosen, model={"encoder": "conv", "classifier_input": source}
                )
                trained = run_training(arguments, data, seed, model, trainer)
                measures = measure(trained.result.model, held_out)
                runs[f"{name}_{source}_{seed}"] = {
                    **same_class(trained.result.model, data["train"], held_out),
                    **{key: measures[key] for key in _MEASURES if key in measures},
                    "core_minutes": trained.core_minutes,
                }
                logging.info("%s %s %d: %s", name, source, seed, runs[f"{name}_{source}_{seed}"])
    record(arguments, "similar_images", runs)


def _arguments() -> argparse.Namespace:
    made = training_parser(__doc__.splitlines()[0], minutes=4.0)
    made.add_argument("--only", nargs="+", choices=_SETS, default=list(_SETS), help="sets")
    made.add_argument("--inputs", nargs="+", choices=_INPUTS, default=list(_INPUTS),
                      help="values of model.classifier_input")  # fmt: skip
    return started(made)


if __name__ == "__main__":
    main()
