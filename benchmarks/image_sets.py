"""Real images for the training benchmarks, and what their records have in common.

The data folder (`--data`) holds MNIST as IDX files, in `mnist_idx/`, and a part of CIFAR-10 as a
zip of JPEGs, `cifar10_train_10k.zip`.
"""

import argparse
import gzip
import hashlib
import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from benchmarks.record import hardware
from trainer.data.input_pipeline import ImageSet

TARGETS = {
    "mnist_supervised": {"accuracy_mean": 0.9972, "ece_mean": 0.005, "bound_nats_mean": 88.0},
    "mnist_semi": {"error_mean": 0.01, "error_worst": 0.016, "ece_mean": 0.015},
    "bound": {"nats_mean": 88.0},
    "cifar": {"accuracy_worst": 0.79, "ece_worst": 0.02},
    "cifar_semi": {"gain_mean": 0.1},
    "tuner": {"share_of_recipe_worst": 0.9},
    "backbone": {"margin_worst": 0.05},
    "calibration": {"mnist_ece_after": 0.01, "digits_ece_after": 0.03},
    "small_calibration": {
        "prior_over_none_20": 1.0,
        "prior_over_none_137": 1.0,
        "prior_over_best_fit_400": 1.0,
    },
    "outliers": {"mean_auroc_mean": 0.99, "least_auroc_mean": 0.96},
    "colour_outliers": {
        "far_mean_auroc_worst": 0.9,
        "held_out_auroc_worst": 0.7,
        "outside_interval_worst": 0.0,
    },
    "train_speed_mlp": {"ratio": 0.95},
    "train_speed_conv": {"ratio": 0.95},
    "distribution": {
        "largest_loss_difference_to_parts_mirrored": 1e-4,
        "largest_loss_difference_to_parts_worker": 1e-4,
    },
    "resume": {"identical": 1.0},
    "serving_parity": {
        "annotate_different_labels": 0.0,
        "annotate_largest_difference": 1e-5,
        "annotate_pixels_different_labels": 0.0,
        "annotate_pixels_largest_difference": 1e-5,
    },
}
"""Bounds by benchmark and figure: what each has to show."""


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--data", type=pathlib.Path, required=True, help="folder of the images")
    made.add_argument("--json", action="store_true", help="print nothing but the record")
    made.add_argument("--out", type=pathlib.Path, help="append the record to this JSON-lines file")
    made.add_argument("--seeds", type=int, nargs="+", default=[1], help="one training each")
    return made


def _idx(path: pathlib.Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def mnist(data: pathlib.Path) -> tuple[ImageSet, ImageSet]:
    """The 60,000 training and the 10,000 test images, in the files' order (shuffled)."""
    sets = []
    for name in ("train", "t10k"):
        images = _idx(data / "mnist_idx" / f"{name}-images-idx3-ubyte.gz")[..., np.newaxis]
        labels = _idx(data / "mnist_idx" / f"{name}-labels-idx1-ubyte.gz")
        sets.append(ImageSet(images, labels.astype(np.int32)))
    return sets[0], sets[1]


def cifar(data: pathlib.Path) -> tuple[ImageSet, ImageSet]:
    """The CIFAR-10 slice: 8 of 10 images for training, 2 for testing, by content hash."""
    rows: list[tuple[str, np.ndarray, int]] = []
    with zipfile.ZipFile(data / "cifar10_train_10k.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".jpeg")))
        classes = sorted({name.split("/")[-2] for name in names})
        for name in names:
            content = archive.read(name)
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            digest = hashlib.sha256(content).hexdigest()
            rows.append((digest, image[..., ::-1], classes.index(name.split("/")[-2])))
    # In the order of the digests, which is as good as random.
    rows.sort(key=lambda row: row[0])
    images = np.stack([row[1] for row in rows])
    labels = np.array([row[2] for row in rows], np.int32)
    cut = len(rows) * 8 // 10
    return ImageSet(images[:cut], labels[:cut]), ImageSet(images[cut:], labels[cut:])


def sign_photos(data: pathlib.Path) -> list[tuple[str, bytes]]:
    """The 2,062 photographs of hands that show digits: class and JPEG, in the archive's order."""
    with zipfile.ZipFile(data / "sign_digits.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".JPG")]
        return [(name.partition("/")[0], archive.read(name)) for name in names]


def split_off(data: ImageSet, sizes: Mapping[str, int], *, seed: int) -> dict[str, ImageSet]:
    """Takes parts of a split at random; what is left is `train`."""
    order = np.random.default_rng(seed).permutation(len(data))
    parts, start = {}, 0
    for name, size in sizes.items():
        parts[name] = data.take(np.sort(order[start : start + size]))
        start += size
    return {**parts, "train": data.take(np.sort(order[start:]))}


def few_labels(
    data: ImageSet, per_class: int, *, calibration: int, seed: int
) -> dict[str, ImageSet]:
    """Draws `train` with so many images of each class; the others lose their labels.

    Args:
        data: labelled images.
        per_class: images of `train`, per class.
        calibration: labelled images of `calibration`, the same for every seed.
        seed: of the draw.

    Returns:
        `train`, `unlabelled` and `calibration`.
    """
    parts = split_off(data, {"calibration": calibration}, seed=0)
    rest = parts["train"]
    draw = np.random.default_rng([seed, 100])
    classes = range(int(rest.labels.max()) + 1)
    chosen = np.concatenate(
        [draw.choice(np.flatnonzero(rest.labels == k), per_class, replace=False) for k in classes]
    )
    others = np.setdiff1d(np.arange(len(rest)), chosen)
    hidden = ImageSet(rest.images[others], np.full(len(others), -1, np.int32))
    return {**parts, "train": rest.take(chosen), "unlabelled": hidden}


def record(arguments: argparse.Namespace, name: str, results: dict[str, Any]) -> None:
    """Prints the record as the last line, and appends it to `--out`.

    Args:
        arguments: Of the benchmark.
        name: Of the benchmark.
        results: Numbers, nested as they come; what is no number goes along as `details`.
    """
    import tensorflow as tf

    figures = flatten(results)
    line = json.dumps(
        {
            "figures": figures,
            "targets": TARGETS.get(name, {}),
            "hardware": {
                **hardware(),
                "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
                "load": round(os.getloadavg()[0], 2),
            },
            "benchmark": name,
            "command": " ".join(sys.argv),
            "details": {key: value for key, value in results.items() if key not in figures},
        }
    )
    if not arguments.json:
        for figure, value in figures.items():
            print(f"{figure:40} {value:12.4f}")
    print(line)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def flatten(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Names the numbers of nested mappings by their path, joined by underscores."""
    figures: dict[str, float] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            figures |= flatten(value, f"{prefix}{key}_")
        elif isinstance(value, int | float):
            figures[f"{prefix}{key}"] = float(value)
    return figures


def mean_and_worst(values: list[float], *, worst: Any = min) -> dict[str, float]:
    """Mean and worst of a figure over seeds."""
    return {"mean": float(np.mean(values)), "worst": float(worst(values))}
