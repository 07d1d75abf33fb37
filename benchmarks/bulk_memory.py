"""Peak memory of the bulk job at 100,000 and at 1,000,000 images, on one worker and on two.

    python -m benchmarks.bulk_memory --data DIR --model MODEL [--json]

The archive is listed under as many names as it takes; every job runs in a fresh process, whose
peak resident memory counts. Figures: memory_ratio (the worst), and the rates, which must not fall.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

from benchmarks.bulk import timed
from benchmarks.record import print_record

_JOB = """
import json, resource, sys
from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.image_sources.config import InputConfig
paths, model, output, workers = json.loads(sys.argv[1])
config = BulkConfig(
    input=InputConfig(paths=paths), model=model, output=output, engine={"workers": workers})
result = run_bulk(config)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([result.members, peak, result.steady_images_per_second]))
"""


def main() -> None:
    """Runs the jobs and prints, or writes, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the archive")
    parser.add_argument("--archive", default="mnist_png.zip", help="a zip of images in that folder")
    parser.add_argument("--model", required=True, help="folder of a pushed model's version")
    parser.add_argument("--small", type=int, default=100_000, help="images of the small job")
    parser.add_argument("--large", type=int, default=1_000_000, help="images of the large one")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    figures = {"memory_ratio": 0.0, "rate_ratio": float("inf")}
    for workers in options.workers:
        small, large = (measure(options, workers, n) for n in (options.small, options.large))
        for job in (small, large):
            name = f"workers_{workers}_images_{job['images']:.0f}"
            figures[f"{name}_peak_mib"] = job["peak_bytes"] / 2**20
            figures[f"{name}_images_per_second"] = job["images_per_second"]
        memory = large["peak_bytes"] / small["peak_bytes"]
        rate = large["images_per_second"] / small["images_per_second"]
        figures["memory_ratio"] = max(figures["memory_ratio"], memory)
        figures["rate_ratio"] = min(figures["rate_ratio"], rate)
    if not options.json:
        for name, value in figures.items():
            print(f"{name:48} {value:14.3f}")
    print_record(figures, {"memory_ratio": 1.2})


def measure(options: argparse.Namespace, workers: int, images: int) -> dict[str, float]:
    """Runs one job of about that many images."""
    archive = (options.data / options.archive).resolve()
    with zipfile.ZipFile(archive) as opened:
        each = sum(not name.endswith("/") for name in opened.namelist())
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
        paths = []
        for copy in range(max(1, round(images / each))):
            path = Path(folder) / f"copy_{copy:03d}{archive.suffix}"
            path.symlink_to(archive)
            paths.append(str(path))
        model = str(Path(options.model).resolve())
        members, peak, rate = timed(_JOB, [paths, model, f"{folder}/out", workers])[1]
    return {
        "workers": workers,
        "images": members,
        "peak_bytes": peak,
        "images_per_second": rate,
    }


if __name__ == "__main__":
    main()
