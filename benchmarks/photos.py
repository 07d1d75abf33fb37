"""Archives of photographs: the bulk job against a bare loop, and `input.store` in a whole run.

    python -m benchmarks.photos [--data DIR] [--json]

The photos are JPEGs of quality 90 that the benchmark makes from shapes, text, gradients and noise;
with `--data` they are kept there and used again. Every side runs in a fresh process, one after the
other, with the same model on the same files.

- `vs_bare_loop_NMP`: images per second of the bulk job (all columns, table written) over those of
  tf.data with `decode_jpeg`, `tf.image.resize` and the SavedModel, without start-up.
- `training_vs_conv`: images per second of training with `configs/photos.yaml` over those of the
  convolutional model of the same size without its savings, at 64x64 colour.
- `model_size_vs_original`: seconds of `vaeline run`, ingest to push, with `store: model_size` over
  `store: original`; `same_model` is 1 if both trainings ended with the same weights, bit for bit,
  and the Evaluator has the same metrics but for the rounding of sums in other batches.
"""

import argparse
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks import train_speed
from benchmarks.bulk import BULK_JOB, members, timed, write_records
from benchmarks.record import print_record
from benchmarks.vaeline_command import run_vaeline
from components.bulk_inference.config import CLASSIFY_COLUMNS
from components.image_checks import ImageHeader, check, model_pixels
from pipeline.config import load_config
from serving.tolerance import differences
from trainer.data.input_pipeline import ImageSet

_TARGETS: Final = {
    "training_vs_conv": 4.0,
    "vs_bare_loop_3mp": 2.0,
    "vs_bare_loop_12mp": 2.0,
    "model_size_vs_original": 0.5,
}
SIZES: Final = {1: (866, 1154), 3: (1500, 2000), 12: (3000, 4000)}
"""Height and width by megapixels."""
_CLASSES: Final = ("circle", "square", "triangle", "lines")
_QUALITY: Final = 90
_NOISE: Final = 5.0
"""Standard deviation of the noise, in levels, about that of a phone in daylight."""
_ROUNDING: Final = 2e-8
"""Largest difference (`serving.tolerance`) of a metric of the same images in other batches; 6e-9
was measured."""

PLAIN: Final = {"encoder": "conv", "latent_size": 32, "observation": "discretized_logistic"}
"""The convolutional model with all defaults: 32 channels, a decoder of full resolution."""

_BARE_LOOP: Final = """
import json, sys, time
records, model, height, width = json.loads(sys.argv[1])
import tensorflow as tf
loaded = tf.saved_model.load(model)
function = loaded.signatures["annotate_pixels"]
spec = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
def decode(record):
    encoded = tf.io.parse_single_example(record, spec)["image/encoded"]
    small = tf.image.resize(tf.io.decode_jpeg(encoded, channels=3), [height, width])
    return tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8)
data = tf.data.TFRecordDataset(records).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
data = data.batch(64).prefetch(2)
function(pixels=tf.zeros([64, height, width, 3], tf.uint8))
begin, images = time.perf_counter(), 0
for pixels in data:
    answer = function(pixels=pixels)
    images += len(answer["label_index"].numpy())
print(json.dumps(images / (time.perf_counter() - begin)))
"""


def main() -> None:
    """Measures and prints, or writes, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder to keep the photos in")
    parser.add_argument("--photos", type=int, default=2000, help="photos of the whole run")
    parser.add_argument("--megapixels", type=int, default=1, choices=SIZES, help="of that run")
    parser.add_argument("--epochs", type=int, default=10, help="of the whole run")
    parser.add_argument(
        "--pixels-each", type=int, default=3600, help="megapixels of each bulk archive"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-photos-") as name:
        figures = measure(Path(name), options)
    if not options.json:
        for key, value in figures.items():
            print(f"{key:44} {value:12.3f}")
    print_record(figures, _TARGETS)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measures the whole run in both settings, then the bulk job with the model of the last one."""
    kept = options.data or folder
    kept.mkdir(parents=True, exist_ok=True)
    training = make_archive(kept, options.photos, options.megapixels)
    figures: dict[str, float] = {"photos_mib": training.stat().st_size / 2**20}
    figures |= measure_training(training)
    results = {}
    for store in ("original", "model_size"):
        root = folder / store
        seconds, results[store] = whole_run(training, root, store, options.epochs)
        figures[f"run_{store}_seconds"] = seconds
        for step, found in results[store]["steps"].items():
            figures[f"run_{store}_{step}"] = found["seconds"]
    figures["model_size_vs_original"] = (
        figures["run_model_size_seconds"] / figures["run_original_seconds"]
    )
    models = {store: results[store]["pushed"] for store in results}
    figures["same_model"] = float(
        _digest(models["original"]) == _digest(models["model_size"])
        and _agree(results["original"]["metrics"], results["model_size"]["metrics"])
    )
    for megapixels in SIZES:
        archive = make_archive(kept, options.pixels_each // megapixels, megapixels)
        figures |= measure_bulk(archive, megapixels, models["model_size"], folder)
    return figures


def measure_training(archive: Path) -> dict[str, float]:
    """Measures the steps of the preset and of the plain model in turn, in images per second."""
    preset = load_config("photos", overrides=[f"input.paths={json.dumps(str(archive))}"])
    limits = preset.input.limits
    pixels = []
    for name, content in members(archive, 512):
        header = check(content, limits)
        assert isinstance(header, ImageHeader), name
        pixels.append(model_pixels(content, header, preset.image))
    data = ImageSet(np.stack(pixels), np.arange(len(pixels), dtype=np.int32) % len(_CLASSES))
    recipes = {"preset": preset.trainer.model_dump(), "plain": preset.trainer.model_dump()}
    # The bound of all images, as before the preset.
    recipes["plain"]["objective"]["elbo_every"] = 1
    rates: dict[str, list[float]] = {"preset": [], "plain": []}
    models = {"preset": preset.model.model_dump(), "plain": PLAIN}
    for _ in range(2):
        for name, model in models.items():
            rates[name].append(train_speed.ours(data, 4, model, recipes[name])())
    best = {name: max(found) for name, found in rates.items()}
    return {
        "training_preset_images_per_second": best["preset"],
        "training_plain_images_per_second": best["plain"],
        "training_vs_conv": best["preset"] / best["plain"],
    }


def measure_bulk(archive: Path, megapixels: int, model: str, folder: Path) -> dict[str, float]:
    """Measures the bulk job and the bare loop on one archive, in images per second."""
    output = folder / f"labelled_{megapixels}"
    job = timed(BULK_JOB, [[str(archive)], model, str(output), {}, list(CLASSIFY_COLUMNS)])[1]
    ours = job["members"] / (job["seconds"] - job["startup_seconds"])
    examples = folder / f"examples_{megapixels}"
    records, _ = write_records(archive, examples, job["members"])
    bare = timed(_BARE_LOOP, [records, model, 64, 64])[1]
    shutil.rmtree(examples)
    return {
        f"bulk_{megapixels}mp_images_per_second": ours,
        f"bare_loop_{megapixels}mp_images_per_second": bare,
        f"vs_bare_loop_{megapixels}mp": ours / bare,
    }


def whole_run(archive: Path, root: Path, store: str, epochs: int) -> tuple[float, dict[str, Any]]:
    """Runs `vaeline run` in a fresh process; returns its wall time in seconds and its result."""
    root.mkdir(parents=True)
    outcome = run_vaeline(
        "run", "--config", "photos", "--root", str(root),
        values={
            "input.paths": str(archive),
            "input.store": store,
            "trainer.epochs": epochs,
            # The gate runs; few epochs need not pass a real bound.
            "evaluation.min_accuracy": 0.01,
            "evaluation.min_class_recall": None,
        },
    )  # fmt: skip
    return outcome.seconds, outcome.result


def _agree(first: dict[str, float], second: dict[str, float]) -> bool:
    if first.keys() != second.keys():
        return False
    return bool(
        np.all(differences([*first.values()], [second[name] for name in first]) <= _ROUNDING)
    )


def _digest(model: str) -> str:
    card = json.loads((Path(model) / "assets.extra" / "model.json").read_text(encoding="utf-8"))
    return str(card["digests"]["model"])


def make_archive(folder: Path, count: int, megapixels: int) -> Path:
    """Writes a zip of photos in one folder per class, unless it is there already."""
    path = folder / f"photos_{count}x{megapixels}mp.zip"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        with zipfile.ZipFile(unfinished, "w") as archive:
            for name, content in photos(count, *SIZES[megapixels]):
                archive.writestr(name, content)
        unfinished.rename(path)
    return path


def photos(count: int, height: int, width: int) -> Iterator[tuple[str, bytes]]:
    """Makes photos of four classes: a large shape of random colour, size and place on a scene.

    Args:
        count: Number of photos.
        height: Rows, pixels.
        width: Columns, pixels.

    Yields:
        Name, `class/number.jpg`, and JPEG file.
    """
    random = np.random.default_rng(0)
    # One field of noise, shifted for each photo, because drawing it takes longer than encoding.
    noise = random.normal(0, _NOISE, (height + 64, width + 64, 3)).astype(np.float32)
    for number in range(count):
        kind = _CLASSES[number % len(_CLASSES)]
        corners = random.integers(0, 256, (4, 5, 3)).astype(np.float32)
        scene = cv2.resize(corners, (width, height), interpolation=cv2.INTER_CUBIC)
        _draw(scene, kind, random)
        top, left = random.integers(0, 64, 2)
        scene += noise[top : top + height, left : left + width]
        pixels = np.clip(scene, 0, 255).astype(np.uint8)
        _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        yield f"{kind}/{number:06d}.jpg", encoded.tobytes()


def _draw(scene: np.ndarray, kind: str, random: np.random.Generator) -> None:
    """Draws the shape of a class, and a line of text, onto float32 [height, width, 3]."""
    height, width, _ = scene.shape
    size = int(height * random.uniform(0.2, 0.3))
    x = int(width / 2 + height * random.uniform(-0.15, 0.15))
    y = int(height * random.uniform(0.35, 0.65))
    colour = tuple(float(level) for level in random.integers(0, 256, 3))
    if kind == "circle":
        cv2.circle(scene, (x, y), size, colour, -1, cv2.LINE_AA)
    elif kind == "square":
        cv2.rectangle(scene, (x - size, y - size), (x + size, y + size), colour, -1)
    elif kind == "triangle":
        points = np.array([[x, y - size], [x - size, y + size], [x + size, y + size]], np.int32)
        cv2.fillPoly(scene, [points], colour, cv2.LINE_AA)
    else:
        for offset in np.linspace(-size, size, 5).astype(int):
            ends = (x - size, int(y + offset)), (x + size, int(y + offset))
            cv2.line(scene, *ends, colour, max(1, size // 8), cv2.LINE_AA)
    text = "".join(chr(65 + letter) for letter in random.integers(0, 26, 12))
    place = (width // 20, int(height * 0.95))
    cv2.putText(scene, text, place, cv2.FONT_HERSHEY_SIMPLEX, height / 400, colour, 3, cv2.LINE_AA)


if __name__ == "__main__":
    main()
