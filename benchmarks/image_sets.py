"""Real images for the training benchmarks, and what their records have in common.

The data folder (`--data`, by default `../shared/data`) holds MNIST as IDX files and a part of
CIFAR-10 as a zip of JPEGs.
"""

import argparse
import gzip
import hashlib
import json
import os
import pathlib
import platform
import sys
import time
import zipfile
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from trainer.input_pipeline import ImageSet

DEFAULT_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--data", type=pathlib.Path, default=DEFAULT_DATA)
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


def split_off(data: ImageSet, sizes: Mapping[str, int], *, seed: int) -> dict[str, ImageSet]:
    """Takes parts of a split at random; what is left is `train`."""
    order = np.random.default_rng(seed).permutation(len(data))
    parts, start = {}, 0
    for name, size in sizes.items():
        parts[name] = data.take(np.sort(order[start : start + size]))
        start += size
    return {**parts, "train": data.take(np.sort(order[start:]))}


def pixel_moments(data: ImageSet) -> dict[str, list[float]]:
    """`pixel_mean` and `pixel_std` of a split, as `train` takes them."""
    scaled = data.images[:20_000].astype(np.float32) / 255.0
    axes = (0, 1, 2)
    return {"pixel_mean": scaled.mean(axes).tolist(), "pixel_std": scaled.std(axes).tolist()}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import keras
    import tensorflow as tf

    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "load": round(os.getloadavg()[0], 2),
        "time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }


def record(arguments: argparse.Namespace, name: str, results: dict[str, Any]) -> None:
    """Prints the record as one line of JSON and appends it to `--out`."""
    line = json.dumps(
        {"benchmark": name, "command": " ".join(sys.argv), **results, "machine": machine()}
    )
    sys.stdout.write(f"{line}\n")
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def mean_and_worst(values: list[float], *, worst: Any = min) -> dict[str, float]:
    """Mean and worst of a figure over seeds."""
    return {"mean": float(np.mean(values)), "worst": float(worst(values))}
