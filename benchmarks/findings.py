"""Findings about images: damaged copies of held-out images, and false alarms on the originals.

    python -m benchmarks.findings --data DIR [--sets mnist cifar signs photos] [--json]

Each set is written into a zip: images for training, other images as `test/`, and damaged copies of
these. One ingest learns the bounds from the training images and judges all of them, at the size of
a model's images. The factors in `components/image_findings` were chosen with a view to these sets;
the bounds are not, as they are learned from other images than those that are copied.

- recall, by kind of damage: copies with that finding, of all copies. Blur is Gaussian, of a
  standard deviation of 5 % of the shorter side (`blurred`) or 3 % (`slightly_blurred`). Contrast
  (`low_contrast`), distance from black (`dark`) and from white (`bright`) are a quarter. `blank` is
  one level with noise of a standard deviation of 1. `odd_size` has a third of either side,
  `odd_aspect_ratio` half of the rows.
- `false_alarms`: held-out originals with any finding; `false_alarms_but_grey`: with any other than
  grey, because an original without colour is rightly found; `colourless`: originals whose colour
  channels differ by less than two levels at every pixel.
- `cpu_seconds_off`, `cpu_seconds_findings`: processor time of the ingest of the training images
  without findings, and what they add; the smallest of three.
"""

import argparse
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks import image_sets
from benchmarks.photos import photos
from benchmarks.record import print_record
from components.image_sources.config import InputConfig
from trainer.config import ImageConfig

_IMAGES: Final = {
    "mnist": ImageConfig(height=28, width=28, channels=1),
    "cifar": ImageConfig(height=32, width=32, channels=3),
    "signs": ImageConfig(height=64, width=64, channels=3),
    "photos": ImageConfig(height=64, width=64, channels=3),
}
_TRAINED: Final = {"mnist": 20_000, "cifar": 8_000, "signs": 1_000, "photos": 1_200}
_HELD_OUT: Final = {"mnist": 5_000, "cifar": 2_000, "signs": 1_062, "photos": 800}
_PHOTO: Final = (433, 577)
"""Height and width of a synthetic photo, pixels: a quarter of a megapixel."""
_QUALITY: Final = 90
_RECALL: Final = 0.95
_FALSE_ALARMS: Final = 0.01
_REQUIRED: Final = ("blurred", "dark", "blank")
_REPEATS: Final = 3


def main() -> None:
    """Measures the sets, and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--sets", nargs="+", default=list(_IMAGES))
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-findings-") as folder:
        for name in options.sets:
            work = Path(folder, name)
            work.mkdir()
            found = measure_set(name, options.data, work)
            figures |= {f"{name}_{figure}": value for figure, value in found.items()}
            if not options.json:
                for figure, value in found.items():
                    print(f"{name}_{figure:32} {value:14.4f}", flush=True)
    bounds = {f"{name}_false_alarms": _FALSE_ALARMS for name in options.sets}
    bounds |= {f"{name}_recall_{kind}": _RECALL for name in options.sets for kind in _REQUIRED}
    print_record(figures, bounds)


def measure_set(name: str, data: Path, work: Path) -> dict[str, float]:
    """Ingests a set with damaged copies, and its training images with and without findings."""
    archive, trained = work / "all.zip", work / "train.zip"
    write_set(name, data, archive, trained)
    rows, _ = _ingest(archive, work / "all", _IMAGES[name], enabled=True)
    found = {row["image"].rpartition("/")[2]: set(row["findings"]) for row in rows}
    with zipfile.ZipFile(archive) as written:
        members = [member.rpartition("/")[2] for member in written.namelist() if "test/" in member]
    figures: dict[str, float] = {}
    for kind in sorted({_kind(member) for member in members} - {""}):
        copies = [member for member in members if _kind(member) == kind]
        finding = kind.removeprefix("slightly_")
        hits = [finding in found.get(member, ()) for member in copies]
        figures[f"recall_{kind}"] = float(np.mean(hits))
    originals = [member for member in members if not _kind(member)]
    alarms = [found.get(member, set()) for member in originals]
    figures["images"] = len(originals)
    figures["colourless"] = _colourless(archive)
    figures["false_alarms"] = float(np.mean([bool(each) for each in alarms]))
    figures["false_alarms_but_grey"] = float(np.mean([bool(each - {"grey"}) for each in alarms]))
    for finding in sorted(set().union(*alarms)):
        figures[f"false_alarms_{finding}"] = float(np.mean([finding in each for each in alarms]))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(_REPEATS):
        for enabled, each in seconds.items():
            each.append(_ingest(trained, work / f"{turn}-{enabled}", _IMAGES[name], enabled)[1])
    figures["cpu_seconds_off"] = min(seconds[False])
    figures["cpu_seconds_findings"] = min(seconds[True]) - min(seconds[False])
    return figures


def _colourless(archive: Path) -> float:
    """Returns the share of the held-out originals that have no colour at all."""
    flat = []
    with zipfile.ZipFile(archive) as written:
        for member in written.namelist():
            if member.startswith("test/") and not _kind(member):
                content = np.frombuffer(written.read(member), np.uint8)
                pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
                flat.append(pixels.ndim == 3 and bool(np.ptp(pixels.astype(int), axis=2).max() < 2))
    return float(np.mean(flat))


def _kind(member: str) -> str:
    """Returns the damage of a copy by its name, `00001-dark.png`; empty for an original."""
    return member.rpartition(".")[0].partition("-")[2]


def _ingest(
    archive: Path, output: Path, image: ImageConfig, enabled: bool
) -> tuple[list[dict[str, Any]], float]:
    """Ingests an archive; returns its table of findings, and the processor seconds."""
    import apache_beam as beam
    import psutil
    import pyarrow.parquet as pq

    from components.image_example_gen.ingest import ingest

    config = InputConfig.model_validate(
        {"paths": str(archive), "findings": {"enabled": enabled}, "labels": {"min_images": 1}}
    )
    before = sum(psutil.Process().cpu_times()[:2])
    ingest(config, str(output), beam.Pipeline, image=image, processes=0)
    seconds = sum(psutil.Process().cpu_times()[:2]) - before
    table = output / "findings.parquet"
    return (pq.read_table(table).to_pylist() if enabled else []), seconds


def write_set(name: str, data: Path, archive: Path, trained: Path) -> None:
    """Writes training images into two zips, and held-out images and copies into the first."""
    random = np.random.default_rng(13)
    suffix = ".png" if name == "mnist" else ".jpg"
    total = _TRAINED[name] + _HELD_OUT[name]
    with zipfile.ZipFile(archive, "w") as target, zipfile.ZipFile(trained, "w") as learned:
        for at, (label, pixels) in enumerate(_images(name, data)):
            if at == total:
                return
            if at < _TRAINED[name]:
                for each in (target, learned):
                    each.writestr(f"train/{label}/{at:05d}{suffix}", _file(pixels, suffix))
                continue
            target.writestr(f"test/{label}/{at:05d}{suffix}", _file(pixels, suffix))
            for kind, copy in _copies(pixels, random):
                member = f"test/{label}/{at:05d}-{kind}{suffix}"
                target.writestr(member, _file(copy, suffix))


def _copies(pixels: np.ndarray, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the damage and the pixels of each copy of an image, grey or BGR."""
    height, width = pixels.shape[:2]
    for kind, share in (("blurred", 0.05), ("slightly_blurred", 0.03)):
        yield kind, cv2.GaussianBlur(pixels, (0, 0), share * min(height, width))
    mean = pixels.mean()
    yield "dark", _levels(pixels * 0.25)
    yield "bright", _levels(255 - (255.0 - pixels) * 0.25)
    yield "low_contrast", _levels(mean + (pixels - mean) * 0.25)
    yield "blank", _levels(random.integers(0, 256) + random.normal(0, 1, pixels.shape))
    size = max(4, width // 3), max(4, height // 3)
    yield "odd_size", cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    yield "odd_aspect_ratio", pixels[height // 4 : height // 4 + height // 2]
    if pixels.shape[2] == 3:
        yield "grey", cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BGR2GRAY)


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _file(pixels: np.ndarray, suffix: str) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if suffix == ".jpg" else []
    return cv2.imencode(suffix, np.ascontiguousarray(pixels), options)[1].tobytes()


def _images(name: str, data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields label and pixels (grey or BGR) of each image, in an order that means nothing."""
    if name == "photos":
        for member, content in photos(_TRAINED[name] + _HELD_OUT[name], *_PHOTO):
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            yield member.rpartition("/")[0] or "photo", pixels
        return
    if name == "signs":
        signs = image_sets.sign_photos(data)
        for at in np.random.default_rng(0).permutation(len(signs)).tolist():
            label, content = signs[at]
            yield label, cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        return
    parts = {"mnist": image_sets.mnist, "cifar": image_sets.cifar}[name](data)
    for part in parts:
        for pixels, label in zip(part.images, part.labels, strict=True):
            yield str(label), pixels[..., ::-1]


if __name__ == "__main__":
    main()
