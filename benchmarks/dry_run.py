"""How well `vaeline classify --dry-run` foresees a job: estimate over outcome, on three archives.

`python -m benchmarks.dry_run --data DIR`: each side in a fresh process. DIR contains
`mnist_png.zip` and `cifar10_train_10k.zip`; the third archive is made: thumbnails first, then
photographs of 1 and 12 megapixels, then files that are no images.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from benchmarks.photos import photos
from benchmarks.record import print_record
from benchmarks.vaeline_command import run_vaeline
from tests.components.bulk_inference.model_fixture import export_model

_GIVEN: Final = {"mnist": "mnist_png.zip", "cifar": "cifar10_train_10k.zip"}
_BOUNDS: Final = {"seconds": 0.25, "rows": 0.01, "rejects": 0.25, "output": 0.25}
"""Largest deviation of each ratio from 1."""


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-dry-run-") as name:
        folder = Path(name)
        model = export_model(folder / "1", shape=(64, 64, 3), embedding=32, hidden=512)
        archives = {kind: options.data / file for kind, file in _GIVEN.items()}
        archives["mixed"] = _mixed_archive(folder / "mixed.zip")
        for kind, archive in archives.items():
            figures |= _measure(kind, archive.resolve(), model, folder / kind)
    if not options.json:
        for key, value in figures.items():
            print(f"{key:32} {value:12.3f}")
    bounds = {f"{kind}_{what}_off": bound for kind in archives for what, bound in _BOUNDS.items()}
    print_record(figures, {key: bound for key, bound in bounds.items() if key in figures})


def _measure(kind: str, archive: Path, model: Path, output: Path) -> dict[str, float]:
    command = ("classify", str(archive), "--model", str(model), "--output", str(output))
    dry = run_vaeline(*command, "--dry-run")
    foreseen = dry.result["estimate"]
    job = run_vaeline(*command, values={"bulk.report": False}).result
    written = sum(
        path.stat().st_size
        for folder in ("table", "rejects", "_units")
        for path in (output / folder).rglob("*.*")
        if path.is_file()
    )
    pairs = {
        "seconds": (foreseen["seconds"], job["seconds"]),
        "rows": (foreseen["rows"], job["rows"]),
        "rejects": (foreseen["rejects"], job["rejects"]),
        "output": (foreseen["output_bytes"], written),
    }
    figures = {f"{kind}_dry_run_seconds": dry.seconds, f"{kind}_job_seconds": job["seconds"]}
    figures[f"{kind}_sampled_share"] = foreseen["sampled"] / job["members"]
    for what, (expected, found) in pairs.items():
        if found:
            figures[f"{kind}_{what}_ratio"] = expected / found
            figures[f"{kind}_{what}_off"] = abs(expected / found - 1)
    return figures


def _mixed_archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for folder, count, height, width in (
            ("thumbnails", 12_000, 96, 128),
            ("photos", 600, 960, 1280),
            ("large", 150, 3000, 4000),
        ):
            for name, content in photos(count, height, width):
                archive.writestr(f"{folder}/{name}", content)
        for number in range(500):
            archive.writestr(f"no_images/{number:03d}.jpg", b"This is no image.")
    return path


if __name__ == "__main__":
    main()
