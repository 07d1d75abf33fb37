"""Peak memory and time of ingest at 100,000 and at 1,000,000 images in one zip.

`python -m benchmarks.ingest_memory`: the images are made first (28 x 28 PNGs, all different, 100
classes); each size is ingested in a process of its own. Memory is that of the whole process tree,
sampled, and must hardly grow; time per image must not grow.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from benchmarks.ingest import MODES, run_ours
from benchmarks.process_tree import TreeWatch
from benchmarks.record import print_record

SIZES = (100_000, 1_000_000)
TARGET_MEMORY_RATIO = 1.2
TARGET_TIME_RATIO = 1.2
CLASSES = 100
SIDE = 28


def main() -> None:
    """Makes both archives, ingests both, and prints the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES, help="numbers of images")
    parser.add_argument("--mode", choices=sorted(MODES), default="in_memory")
    parser.add_argument("--threads", type=int, help="threads that check images, per worker")
    parser.add_argument("--keep", type=Path, help="folder that keeps the archives between runs")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data:
        print(json.dumps(run_ours(options)))
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            data = make_archive(options.keep or Path(folder), size)
            seconds, peak = measure(data, Path(folder) / "out", options)
            print(f"{size:,} images: {size / seconds:,.0f} images/s, peak {peak:,.0f} MiB")
            figures |= {f"seconds_{size}": seconds, f"peak_mib_{size}": peak}
    small, large = options.sizes
    print_record(
        {
            **figures,
            "memory_ratio": figures[f"peak_mib_{large}"] / figures[f"peak_mib_{small}"],
            "seconds_ratio_per_image": (
                figures[f"seconds_{large}"] / large / (figures[f"seconds_{small}"] / small)
            ),
        },
        {"memory_ratio": TARGET_MEMORY_RATIO, "seconds_ratio_per_image": TARGET_TIME_RATIO},
    )


def make_archive(folder: Path, size: int) -> Path:
    """Writes a zip of different PNGs; one that is there from before is taken."""
    path = folder / f"synthetic-{size}.zip"
    if path.exists():
        return path
    rng = np.random.default_rng(size)
    unfinished = path.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w") as archive:
        for i in range(size):
            # A dark field with a bright square, like a digit; the number makes it different.
            image = np.zeros((SIDE, SIDE + 1), np.uint8)
            image[8:20, 9:21] = rng.integers(0, 256, (12, 12))
            image[0, 1:5] = np.frombuffer(struct.pack("<I", i), np.uint8)
            archive.writestr(f"class-{i % CLASSES:03d}/{i:07d}.png", png(image.tobytes()))
    unfinished.rename(path)
    return path


def png(rows: bytes) -> bytes:
    """Makes a grey PNG of filtered rows."""
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def measure(data: Path, work: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Ingests one archive in a fresh process.

    Returns:
        Seconds of the executor, and peak memory of the process tree, MiB.
    """
    command = [sys.executable, "-m", "benchmarks.ingest_memory", "--data", str(data)]
    command += ["--work", str(work), "--mode", options.mode]
    if options.threads:
        command += ["--threads", str(options.threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with TreeWatch(process.pid) as watch:
        output, _ = process.communicate()
    shutil.rmtree(work, ignore_errors=True)
    if process.returncode:
        raise SystemExit(f"ingest of {data} failed with code {process.returncode}")
    return json.loads(output.splitlines()[-1])["seconds"], watch.peak_mib


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
