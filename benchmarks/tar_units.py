"""A bulk job over one large tar: two workers against one, and what a killed job reads again.

    python -m benchmarks.tar_units --data DIR --model MODEL [--repeat 15] [--json]

`DIR` holds `mnist_png.zip`, whose images are written into one tar, that many times under other
names; `MODEL` is the folder of a pushed model for 28x28 images. Every job runs in a fresh process;
a worker is a process that may use one core.
The killed one gets SIGKILL when half of its units are done, and is started again.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from benchmarks.bulk import BULK_JOB
from benchmarks.record import print_record
from components.bulk_inference.config import CLASSIFY_COLUMNS
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource

_TARGETS = {"two_workers_over_one": 1.6, "read_again_share": 0.6}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist_png.zip")
    parser.add_argument("--model", required=True, help="folder of a pushed model")
    parser.add_argument("--repeat", type=int, default=15, help="copies of the archive")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.tar"
        members = write_tar(options.data / "mnist_png.zip", path, options.repeat)
        figures = {"members": float(members), **measure(path, options.model, Path(folder))}
    if not options.json:
        for name, value in figures.items():
            print(f"{name:30} {value:12.3f}")
    print_record(figures, _TARGETS)


def write_tar(archive: Path, path: Path, repeat: int) -> int:
    """Writes the images of a zip into a tar, several times; returns the number of members."""
    with zipfile.ZipFile(archive) as source, tarfile.open(path, "w") as target:
        files = [(name, source.read(name)) for name in source.namelist() if name.endswith(".png")]
        for copy in range(repeat):
            for name, data in files:
                info = tarfile.TarInfo(f"{copy}/{name}")
                info.size = len(data)
                target.addfile(info, io.BytesIO(data))
    return repeat * len(files)


def measure(path: Path, model: str, folder: Path) -> dict[str, float]:
    """Runs the jobs.

    Returns:
        Seconds to plan, images per second with one and two workers, start-up included, their ratio,
        the share of members that the restarted job read, and whether its table has the same rows.
    """
    begin = time.perf_counter()
    units = len(list(ImageSource(InputConfig(paths=(str(path),))).units()))
    figures = {"units": float(units), "plan_seconds": time.perf_counter() - begin}
    for workers in (1, 2):
        begin = time.perf_counter()
        result = _finish(_start(path, model, folder / f"out-{workers}", workers))
        figures[f"images_per_second_{workers}"] = result["images_per_second"]
        figures[f"seconds_{workers}"] = time.perf_counter() - begin
    one, two = figures["images_per_second_1"], figures["images_per_second_2"]
    figures["two_workers_over_one"] = two / one
    killed = folder / "killed"
    process = _start(path, model, killed, 2)
    while len(list(killed.glob("_units/*/*.json"))) < units // 2 and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = _finish(_start(path, model, killed, 2))
    figures["read_again_share"] = result["members_done_now"] / result["members"]
    rows = [_rows(folder / name) for name in ("out-2", "killed")]
    figures["same_rows"] = float(rows[0] == rows[1])
    return figures


def _start(path: Path, model: str, output: Path, workers: int) -> "subprocess.Popen[str]":
    columns = [name for name in CLASSIFY_COLUMNS if name != "code_digest"]
    engine = {"workers": workers, "processes": workers}
    arguments = [[str(path)], model, str(output), engine, columns]
    cores = sorted(os.sched_getaffinity(0))[:workers]
    return subprocess.Popen(
        [sys.executable, "-c", BULK_JOB, json.dumps(arguments)],
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the job ended with {process.returncode}")
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    return result


def _rows(output: Path) -> list[tuple[str, str]]:
    table = ds.dataset(str(output / "table"), format="parquet").to_table(columns=["key", "label"])
    return sorted(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True))


if __name__ == "__main__":
    main()
