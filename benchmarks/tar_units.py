"""A bulk job over one large tar: two workers against one, and what a killed job reads again.

    python -m benchmarks.tar_units --data DIR --model MODEL [--members 200000]
        [--packings tar gzip zstd] [--parts speed resume] [--json]

`DIR` holds `mnist_png.zip`, whose images are written into one tar, many times under other names;
`MODEL` is the folder of a pushed model for 28x28 images. Every job runs in a fresh process; a
worker is a process that may use one core. The killed one gets SIGKILL when half of its units are
done, and is started again. On a busy machine only figures that end in `_cpu` tell of the speed.
"""

import argparse
import gzip
import io
import itertools
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
from typing import IO, Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
import zstandard

from benchmarks.bulk import BULK_JOB
from benchmarks.record import print_record
from components.bulk_inference.config import CLASSIFY_COLUMNS
from components.bulk_inference.output.ledger import INDEX, Ledger
from components.image_sources.config import MIB, InputConfig
from components.image_sources.sources import ImageSource
from components.image_sources.tar_index import TarIndex

_TARGETS = {"two_workers_over_one": 1.6, "read_over_missing": 1.0}
_SUFFIXES = {"tar": ".tar", "gzip": ".tar.gz", "zstd": ".tar.zst"}
_FRAME = 8 * MIB
_USAGE = """
import resource
own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
with open("/proc/self/io") as file:
    read = int(file.readline().split()[1])
print(json.dumps({"cpu": own.ru_utime + own.ru_stime, "read_bytes": read,
    "workers_cpu": workers.ru_utime + workers.ru_stime}))
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist_png.zip")
    parser.add_argument("--model", required=True, help="folder of a pushed model")
    parser.add_argument("--members", type=int, default=200_000, help="images in the tar")
    parser.add_argument("--packings", nargs="+", default=["tar", "gzip"], choices=_SUFFIXES)
    parser.add_argument("--parts", nargs="+", default=["speed", "resume"])
    parser.add_argument("--scratch", help="where the tar and the tables are written")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    figures = {"members": float(options.members)}
    targets: dict[str, float] = {}
    for packing in options.packings:
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            folder = Path(name)
            path = folder / f"images{_SUFFIXES[packing]}"
            write_tar(options.data / "mnist_png.zip", path, options.members)
            found = plan(path, folder)
            if "speed" in options.parts:
                found |= speed(path, options.model, folder)
            if "resume" in options.parts:
                found |= resume(path, options.model, folder / "killed", int(found["units"]))
        figures |= {f"{packing}_{name}": value for name, value in found.items()}
        targets |= {f"{packing}_{name}": _TARGETS[name] for name in found.keys() & _TARGETS.keys()}
    if not options.json:
        for name, value in figures.items():
            print(f"{name:34} {value:16.3f}")
    print_record(figures, targets)


def write_tar(archive: Path, path: Path, members: int) -> None:
    """Writes the images of a zip into a tar, again and again; of zstd in frames of 8 MiB."""
    with zipfile.ZipFile(archive) as source:
        files = [(name, source.read(name)) for name in source.namelist() if name.endswith(".png")]
    packed: Any = path.open("wb")
    if path.suffix == ".gz":
        packed = gzip.GzipFile(path, "wb", compresslevel=1)
    elif path.suffix == ".zst":
        packed = _Frames(packed)
    with packed, tarfile.open(fileobj=packed, mode="w|") as target:
        for at, (name, data) in enumerate(itertools.islice(itertools.cycle(files), members)):
            info = tarfile.TarInfo(f"{at // len(files)}/{name}")
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))


class _Frames(io.RawIOBase):
    """Writes zstd frames."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held += data
        if len(self._held) >= _FRAME:
            self._end()
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._end()
            self._file.close()
        super().close()

    def _end(self) -> None:
        self._file.write(zstandard.compress(bytes(self._held), 1))
        self._held.clear()


def plan(path: Path, folder: Path) -> dict[str, float]:
    """Returns the seconds of planning, without and with an index, and the sizes of both files."""
    figures = {"archive_mib": path.stat().st_size / MIB}
    for name in ("plan", "plan_again"):
        begin = time.process_time()
        source = ImageSource(InputConfig(paths=(str(path),)), TarIndex(str(folder / "index")))
        figures["units"] = float(sum(1 for _ in source.units()))
        figures[f"{name}_seconds_cpu"] = time.process_time() - begin
    kept = sum(file.stat().st_size for file in (folder / "index").iterdir())
    return {**figures, "index_mib": kept / MIB}


def speed(path: Path, model: str, folder: Path) -> dict[str, float]:
    """Returns images per second with one and two workers, start-up included, and their ratio.

    The ratio by processor time takes the work of the job itself as not divided, that of the workers
    as shared equally.
    """
    figures = {}
    cpu = []
    for workers in (1, 2):
        begin = time.perf_counter()
        result = _finish(_start(path, model, folder / f"out-{workers}", workers))
        figures[f"seconds_{workers}"] = time.perf_counter() - begin
        figures[f"images_per_second_{workers}"] = result["images_per_second"]
        figures[f"job_seconds_{workers}_cpu"] = result["cpu"]
        figures[f"workers_seconds_{workers}_cpu"] = result["workers_cpu"]
        cpu.append(result["cpu"] + result["workers_cpu"] / workers)
    one, two = figures["images_per_second_1"], figures["images_per_second_2"]
    return {
        **figures,
        "two_workers_over_one": two / one,
        "two_workers_over_one_cpu": cpu[0] / cpu[1],
    }


def resume(path: Path, model: str, output: Path, units: int) -> dict[str, float]:
    """Kills a job and starts it again.

    Returns:
        Members that were missing and that the second job read, their ratio, the bytes that it read
        of any file, libraries included, its seconds, and the distinct keys in the table.
    """
    process = _start(path, model, output, 2)
    while len(list(output.glob("_units/*/*.json"))) < units // 2 and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ledger = Ledger(str(output))
    done = sum(record.members for record in ledger.read_records(ledger.finished_names()))
    figures = {"index_survives": float(any((output / INDEX).iterdir()))}
    begin = time.perf_counter()
    result = _finish(_start(path, model, output, 2))
    missing = result["members"] - done
    keys = ds.dataset(str(output / "table"), format="parquet").to_table(columns=["key"])["key"]
    return {
        **figures,
        "missing": float(missing),
        "read_again": float(result["members_done_now"]),
        "read_over_missing": result["members_done_now"] / missing,
        "read_mib": result["read_bytes"] / MIB,
        "resumed_seconds": time.perf_counter() - begin,
        "resumed_seconds_cpu": result["cpu"] + result["workers_cpu"],
        "distinct_keys": float(pc.count_distinct(keys).as_py()),
        "rows": float(result["rows"]),
    }


def _start(path: Path, model: str, output: Path, workers: int) -> "subprocess.Popen[str]":
    columns = [name for name in CLASSIFY_COLUMNS if name != "code_digest"]
    engine = {"workers": workers, "processes": workers}
    arguments = [[str(path)], model, str(output), engine, columns]
    cores = sorted(os.sched_getaffinity(0))[:workers]
    return subprocess.Popen(
        [sys.executable, "-c", BULK_JOB + _USAGE, json.dumps(arguments)],
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the job ended with {process.returncode}")
    result, usage = map(json.loads, said.splitlines()[-2:])
    return {**result, **usage}


if __name__ == "__main__":
    main()
