"""Compares the engines of the bulk job.

    python -m benchmarks.engines --data DIR --model MODEL [--json]

Every engine labels the same archive with `vaeline classify` in a fresh process, and its table is
compared with the local runner's by the digest of all rows, sorted by key. Dask runs with one
worker, with two, and with two of which one is killed with SIGKILL after the first unit; each worker
has a core of its own, and has labelled some images before. Prism runs if its binary is at hand,
Flink with `--flink-jar`. Figures: `X_equal` (1 or 0), `X_seconds` and `X_images_per_second` of each
engine; `dask_speed_up` from one worker to two; and `dask_speed_up_cpu`, the processor time of the
one divided by the larger of the two: the speed-up on idle cores, if only workers took time.
"""

import argparse
import hashlib
import json
import operator
import os
import signal
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.dataset as ds

from benchmarks.bulk import small_archive
from benchmarks.record import print_record
from benchmarks.vaeline_command import run_vaeline
from tests.engine_servers import (
    DaskCluster,
    dask_cluster,
    prism,
    prism_binary,
    why_no_prism,
    worker_pool,
)

_SPEED_UP = 1.7
_UNIT_MEMBERS = 1024


@dataclass
class Bench:
    """Labels one archive again and again.

    Attributes:
        folder: Where outputs go.
        archives: The archive under several names.
        few: An archive of some images, with which workers warm up.
        model: The model.
        quiet: Whether only the record is printed.
        figures: What was found.
    """

    folder: Path
    archives: list[str]
    few: str
    model: str
    quiet: bool
    figures: dict[str, float]

    def run(
        self, name: str, *options: str, cluster: DaskCluster | None = None, **engine: str
    ) -> None:
        """Labels the archive on an engine.

        Args:
            name: Name of the figures; also of the output.
            *options: Options of the command.
            cluster: Whose first worker is killed after the first unit.
            **engine: Values of `bulk.engine`.
        """
        values: dict[str, object] = {f"engine.{key}": value for key, value in engine.items()}
        values |= {"input.units.members": _UNIT_MEMBERS, "drift.enabled": False}
        output = self.folder / name
        command = ["--model", self.model, "--output", str(output), "--no-report", *options]
        killer = threading.Thread(target=_kill, args=(cluster, output / "_units"))
        if cluster is not None:
            killer.start()
        result, seconds, _ = run_vaeline(
            "classify", *self.archives, *command, "--logs", str(self.folder), values=values
        )
        if cluster is not None:
            killer.join()
        digest = _digest(output / "table")
        is_equal = digest == _digest(self.folder / "local" / "table")
        self.figures |= {f"{name}_equal": float(is_equal), f"{name}_seconds": seconds}
        self.figures[f"{name}_images_per_second"] = result["images_per_second"]
        if not self.quiet:
            print(
                f"{name:20} {result['members']:8,} images {seconds:7.1f} s  {digest[:12]}"
                f"  {'equal' if is_equal else 'DIFFERENT'}  {' '.join(options)}"
            )

    def warm_up(self, *options: str) -> None:
        """Makes every worker load the model."""
        output = str(self.folder / f"warm_{time.monotonic_ns()}")
        run_vaeline(
            "classify", self.few, "--model", self.model, "--output", output, "--no-report",
            "--logs", str(self.folder), *options, values={"input.units.members": 16},
        )  # fmt: skip


def main() -> None:
    """Runs all engines and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the archive")
    parser.add_argument("--archive", default="mnist_png.zip", help="a zip of images in that folder")
    parser.add_argument("--model", required=True, help="folder of a pushed model's version")
    parser.add_argument("--repeat", type=int, default=2, help="copies of the archive")
    parser.add_argument("--flink-jar", help="Beam's job server for Flink")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-engines-") as folder:
        figures = measure(Path(folder), options)
    targets = {name: 1.0 for name in figures if name.endswith("_equal")}
    print_record(figures, {**targets, "dask_speed_up": _SPEED_UP})


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Runs one engine after the other."""
    archive = (options.data / options.archive).resolve()
    copies = []
    for copy in range(options.repeat):
        path = folder / f"copy_{copy:03d}{archive.suffix}"
        path.symlink_to(archive)
        copies.append(str(path))
    few = str(small_archive(archive, folder / "few.zip", 256))
    model = str(Path(options.model).resolve())
    bench = Bench(folder, copies, few, model, options.json, {})
    bench.run("local", "--workers", "2")
    _on_prism(bench)
    _on_dask(bench)
    if options.flink_jar:
        jar = str(Path(options.flink_jar).resolve())
        bench.run("flink", "--runner", "flink", "--workers", "2", job_server_jar=jar)
    return bench.figures


def _on_prism(bench: Bench) -> None:
    if why_no_prism():
        if not bench.quiet:
            print(why_no_prism())
        return
    own = json.dumps([f"--prism_location={prism_binary()}"])
    common = ("--runner", "prism", "--workers", "2")
    bench.run("prism", *common, "--set", f"engine.options={own}")
    with ExitStack() as stack:
        pool = stack.enter_context(worker_pool(bench.folder))
        address = stack.enter_context(prism())
        bench.run(
            "prism_worker_pool", *common, "--master", address,
            environment="EXTERNAL", environment_config=pool,
        )  # fmt: skip


def _on_dask(bench: Bench) -> None:
    busiest = {}
    for name, workers in (("dask_1", 1), ("dask_2", 2), ("dask_2_one_killed", 2)):
        with dask_cluster(bench.folder, workers) as cluster:
            command = ("--runner", "dask", "--master", cluster.address, "--workers", "1")
            bench.warm_up(*command)
            before = _processor_secs(cluster)
            is_killed = name == "dask_2_one_killed"
            bench.run(name, *command, cluster=cluster if is_killed else None)
            if not is_killed:
                after = _processor_secs(cluster)
                busiest[name] = max(map(operator.sub, after, before))
    figures = bench.figures
    figures["dask_speed_up"] = (
        figures["dask_2_images_per_second"] / figures["dask_1_images_per_second"]
    )
    figures["dask_speed_up_cpu"] = busiest["dask_1"] / busiest["dask_2"]


def _processor_secs(cluster: DaskCluster) -> list[float]:
    """Returns the processor time that each worker has used, user and system."""
    times = [psutil.Process(worker.pid).cpu_times() for worker in cluster.workers]
    return [each.user + each.system for each in times]


def _kill(cluster: DaskCluster, records: Path) -> None:
    while not any(records.rglob("*.json")):
        time.sleep(0.05)
    os.kill(cluster.workers[0].pid, signal.SIGKILL)


def _digest(table: Path) -> str:
    """Computes the SHA-256 of all rows, sorted by key."""
    rows = ds.dataset(table, format="parquet").to_table().sort_by("key")
    digest = hashlib.sha256()
    for batch in rows.to_batches(max_chunksize=10_000):
        digest.update(json.dumps(batch.to_pylist()).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
