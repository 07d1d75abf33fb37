"""Near-duplicates at ingest: copies planted into real images, and a million hashes.

    python -m benchmarks.near_duplicates --data DIR [--sets mnist cifar photos scale] [--json]

Each set is written into a zip with copies of some of its images: re-encoded as JPEG of quality 30,
resized by 0.7, cropped to 95 % of either side at a random place, and 15 % brighter and darker. The
whole ingest runs with `near: off` and with `near: group`, in turn. The bounds in
`components/near_duplicates` were chosen on the first 30,000 training images of MNIST and the first
8,000 of the CIFAR slice; the images that are copied here are others, although all are searched.

- recall, by kind of copy: copies that are in the group of their source, of all copies.
- precision: of all images that are in the group of another one, those that were made from it, or
  from its source. Whatever looks alike in the sets themselves counts against it.
- crossing: copies in another split than their source, among them copies that were not recognised;
  `crossing_known`: without these. `crossing_without`: the same with `near: off`.
- `seconds_near`: what `near: group` adds to the ingest.
- `scale`: `find_near_groups` over synthetic thumbnails, one in twenty of them a copy, without the
  making of the hashes; memory is sampled, without the pages of mapped files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks import image_sets
from benchmarks.photos import photos
from benchmarks.process_tree import TreeWatch
from benchmarks.record import print_record
from components.image_sources.config import InputConfig
from trainer.config import ImageConfig

_TARGET: Final = 0.95
_IMAGES: Final = {
    "mnist": ImageConfig(height=28, width=28, channels=1),
    "cifar": ImageConfig(height=32, width=32, channels=3),
    "photos": ImageConfig(height=64, width=64, channels=3),
}
_PHOTO: Final = (433, 577)
"""Height and width of a synthetic photo, pixels: a quarter of a megapixel."""
_FRESH: Final = {"mnist": (30_000, 70_000), "cifar": (8_000, 10_000), "photos": (0, 2_000)}
"""The images of a set on which no bound was chosen: first, and last + 1."""
_CAMERA_QUALITY: Final = 90
_JPEG_QUALITY: Final = 30
_RESIZED: Final = 0.7
_CROPPED: Final = 0.95
_BRIGHTNESS: Final = {"brighter": 1.15, "darker": 0.85}
_CHUNK: Final = 20_000


def main() -> None:
    """Measures the sets, and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--sets", nargs="+", default=[*_IMAGES, "scale"])
    parser.add_argument("--copied", type=int, default=1000, help="images of a set to copy, at most")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    parser.add_argument("--scale-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scale_folder:
        print(json.dumps(run_scale(options.scale_folder)))
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-near-") as folder:
        for name in options.sets:
            work = Path(folder, name)
            work.mkdir()
            found = (
                measure_scale(work, options.sizes)
                if name == "scale"
                else measure_set(name, options.data, work, options.copied)
            )
            figures |= {f"{name}_{figure}": value for figure, value in found.items()}
            if not options.json:
                for figure, value in found.items():
                    print(f"{name}_{figure:32} {value:14.4f}", flush=True)
    bounds = {
        figure: 0.0 if "crossing" in figure else _TARGET
        for figure in figures
        if "recall" in figure or figure.endswith(("precision", "crossing", "crossing_known"))
    }
    print_record(figures, bounds)


def measure_set(name: str, data: Path, work: Path, copied: int) -> dict[str, float]:
    """Ingests a set with planted copies, without and with a search for near-duplicates."""
    archive = work / "images.zip"
    planted = plant(name, data, archive, copied)
    runs = {near: _ingest(archive, work / near, near, _IMAGES[name]) for near in ("off", "group")}
    rows = runs["group"]["rows"]
    group = {row["member"]: row["group"] for row in rows}
    member = {row["sha256"]: row["member"] for row in rows}
    figures: dict[str, float] = {
        "images": runs["off"]["images"],
        "copies": len(planted),
        "groups": len(set(group.values())),
    }
    for kind in sorted({kind for kind, _ in planted.values()}):
        chosen = [(copy, source) for copy, (is_kind, source) in planted.items() if is_kind == kind]
        together = [copy in group and group[copy] == group.get(source) for copy, source in chosen]
        figures[f"recall_{kind}"] = float(np.mean(together))
    origin = {copy: source for copy, (_, source) in planted.items()}
    pairs = [(row["member"], member[row["group"]]) for row in rows]
    others = [(one, other) for one, other in pairs if one != other]
    right = [origin.get(one, one) == origin.get(other, other) for one, other in others]
    figures["precision"] = float(np.mean(right))
    known = {
        copy: source for copy, source in origin.items() if group.get(copy) == group.get(source)
    }
    for title, near, found in (
        ("crossing", "group", origin),
        ("crossing_known", "group", {copy: known[copy] for copy in known if copy in group}),
        ("crossing_without", "off", origin),
    ):
        split = runs[near]["splits"]
        figures[title] = sum(
            split[copy] != split[source]
            for copy, source in found.items()
            if copy in split and source in split
        )
    figures["seconds_off"] = runs["off"]["seconds"]
    figures["seconds_near"] = runs["group"]["seconds"] - runs["off"]["seconds"]
    figures["cpu_seconds_off"] = runs["off"]["cpu_seconds"]
    figures["cpu_seconds_near"] = runs["group"]["cpu_seconds"] - runs["off"]["cpu_seconds"]
    return figures


def _ingest(archive: Path, output: Path, near: str, image: ImageConfig) -> dict[str, Any]:
    """Ingests an archive; returns its table of near-duplicates, its splits and what it took."""
    import apache_beam as beam
    import psutil
    import pyarrow.parquet as pq

    from components.image_example_gen.ingest import ingest

    config = InputConfig.model_validate(
        {"paths": str(archive), "duplicates": {"near": near}, "store": "auto"}
    )
    begin, cpu = time.perf_counter(), sum(psutil.Process().cpu_times()[:4])
    account = ingest(config, str(output), beam.Pipeline, image=image)
    cpu = sum(psutil.Process().cpu_times()[:4]) - cpu
    table = output / "near_duplicates.parquet"
    rows = pq.read_table(table).to_pylist() if table.exists() else []
    for row in rows:
        row["member"] = row["image"].removeprefix(f"{archive}/")
    return {
        "images": account.images_in,
        "rows": rows,
        "splits": dict(_splits(output, f"{archive}/")),
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": cpu,
    }


def _splits(output: Path, prefix: str) -> Iterator[tuple[str, str]]:
    """Yields member and split of every record."""
    from components.image_example_gen.staged_records import described
    from components.tfrecord_frames import read_frames

    for path in output.glob("Split-*/*.tfrecord"):
        with path.open("rb") as file:
            for record, _ in read_frames(file, 1 << 30):
                key = described(record)[1]
                yield key.removeprefix(prefix), path.parent.name.removeprefix("Split-")


def plant(name: str, data: Path, archive: Path, most: int) -> dict[str, tuple[str, str]]:
    """Writes a set and copies of some of its images into a zip.

    Args:
        name: Of the set.
        data: The folder of the images.
        archive: The zip to write.
        most: Number of images to copy, at most.

    Returns:
        Kind and source of each copy, by name.
    """
    random = np.random.default_rng(11)
    fresh = np.arange(*_FRESH[name])
    chosen = set(random.choice(fresh, min(most, len(fresh)), replace=False).tolist())
    suffix = ".jpg" if name == "photos" else ".png"
    planted = {}
    with zipfile.ZipFile(archive, "w") as target:
        for at, (member, pixels) in enumerate(_images(name, data)):
            target.writestr(f"{member}{suffix}", _file(pixels, suffix))
            if at not in chosen:
                continue
            for kind, copy in _copies(pixels, random):
                quality = _JPEG_QUALITY if kind == "reencoded" else _CAMERA_QUALITY
                ending = ".jpg" if kind == "reencoded" else suffix
                target.writestr(f"{member}-{kind}{ending}", _file(copy, ending, quality))
                planted[f"{member}-{kind}{ending}"] = (kind, f"{member}{suffix}")
    return planted


def _copies(pixels: np.ndarray, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yields kind and pixels of each copy of an image; the first one is to be encoded again."""
    height, width = pixels.shape[:2]
    yield "reencoded", pixels
    size = round(width * _RESIZED), round(height * _RESIZED)
    yield "resized", cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    rows, columns = round(height * _CROPPED), round(width * _CROPPED)
    top, left = random.integers(0, height - rows + 1), random.integers(0, width - columns + 1)
    yield "cropped", pixels[top : top + rows, left : left + columns]
    for kind, factor in _BRIGHTNESS.items():
        yield kind, np.clip(np.round(pixels * factor), 0, 255).astype(np.uint8)


def _file(pixels: np.ndarray, suffix: str, quality: int = _CAMERA_QUALITY) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    return cv2.imencode(suffix, np.ascontiguousarray(pixels), options)[1].tobytes()


def _images(name: str, data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and pixels (grey or BGR) of each image."""
    if name == "photos":
        for member, content in photos(_FRESH[name][1], *_PHOTO):
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            yield member.removesuffix(".jpg"), pixels
        return
    parts = {"mnist": image_sets.mnist, "cifar": image_sets.cifar}[name](data)
    number = 0
    for part in parts:
        for pixels, label in zip(part.images, part.labels, strict=True):
            yield f"{label}/{number:05d}", pixels[..., ::-1]
            number += 1


def measure_scale(work: Path, sizes: list[int]) -> dict[str, float]:
    """Measures the search over synthetic images of several numbers, each in a fresh process."""
    figures: dict[str, float] = {}
    for size in sizes:
        folder = work / str(size)
        folder.mkdir()
        make_scale(folder, size)
        command = [sys.executable, "-m", "benchmarks.near_duplicates", "--data", str(work)]
        command += ["--scale-folder", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with process, TreeWatch(process.pid) as watch:
            told = json.loads(process.communicate()[0].splitlines()[-1])
        figures |= {f"{figure}_{size}": value for figure, value in told.items()}
        figures[f"own_mib_{size}"] = max(sample.own_mib for sample in watch.samples)
        figures[f"resident_mib_{size}"] = watch.peak_mib
    small, large = sizes[0], sizes[-1]
    figures["cpu_ratio_per_image"] = (
        figures[f"cpu_seconds_{large}"] / large / (figures[f"cpu_seconds_{small}"] / small)
    )
    return figures


def make_scale(folder: Path, size: int) -> None:
    """Writes thumbnails and hashes of smooth random images; every 20th is a copy of the last."""
    from components.near_duplicates.perceptual_hash import SIDE, hashes

    random = np.random.default_rng(5)
    smooth = cv2.resize(np.eye(7, dtype=np.float32), (7, SIDE), interpolation=cv2.INTER_CUBIC)
    with (folder / "thumbs").open("wb") as thumbs, (folder / "words").open("wb") as words:
        for begin in range(0, size, _CHUNK):
            number = min(_CHUNK, size - begin)
            coarse = random.integers(0, 256, (number, 7, 7)).astype(np.float32)
            made = smooth @ coarse @ smooth.T
            copies = np.arange(19, number, 20)
            made[copies] = made[copies - 1] * 0.9 + random.normal(0, 2, (len(copies), SIDE, SIDE))
            pixels = np.clip(np.rint(made), 0, 255).astype(np.uint8)
            thumbs.write(pixels.tobytes())
            words.write(hashes(pixels).tobytes())


def run_scale(folder: Path) -> dict[str, float]:
    """Searches the files of `make_scale`."""
    from components.near_duplicates.finding import find_near_groups
    from components.near_duplicates.perceptual_hash import SIDE, WINDOWS, WORDS

    size = (folder / "thumbs").stat().st_size // SIDE**2
    thumbs = np.memmap(folder / "thumbs", np.uint8, mode="r", shape=(size, SIDE, SIDE))
    words = np.memmap(folder / "words", np.uint64, mode="r", shape=(size, WINDOWS, WORDS))
    begin, cpu = time.perf_counter(), time.process_time()
    found = find_near_groups(thumbs, words, np.ones(size, bool))
    copies = np.arange(19, size, 20)
    group = np.full(size, -1)
    group[found.images] = found.groups
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu,
        "recall": float(np.mean((group[copies] >= 0) & (group[copies] == group[copies - 1]))),
    }


if __name__ == "__main__":
    main()
