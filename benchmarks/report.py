"""Time and peak memory of both reports: a run of 70,000 images, an archive of 1,000,000 rows.

    python -m benchmarks.report --data DIR [--root ROOT] [--rows N] [--json]

`DIR` holds `mnist_png.zip`. A run with one epoch is made first, unless ROOT has one already; only
making its report is measured. The table's rows are synthetic; their images lie in a zip with a
member for each row, so that pictures are fetched as from a real archive. Each report is made in a
fresh process, imports included.
"""

import argparse
import json
import os
import posixpath
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import print_record
from components.bulk_inference.config import BulkConfig
from components.bulk_inference.output import ledger
from components.image_sources.config import InputConfig

_TARGETS = {"run_seconds": 15.0, "run_peak_gib": 1.0, "rows_seconds": 15.0, "rows_peak_gib": 1.0}
_CLASSES = [f"class {number}" for number in range(10)]
_SHARD = 8_192
_MADE = 60_000
"""Different rows; shards repeat them, so that making the table takes seconds."""

_REPORT = """
import json, resource, sys, time
begin = time.monotonic()
from pipeline.report.{module} import {function} as write
{read}
page = write({argument})
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([time.monotonic() - begin, peak, page and __import__("os").path.getsize(page)]))
"""
_RUN = _REPORT.format(
    module="run_report",
    function="write_run_report",
    read="from pathlib import Path\nfrom pipeline.runs.store import latest_run",
    argument="latest_run(Path(sys.argv[1]))",
)
_ARCHIVE = _REPORT.format(
    module="archive_report", function="write_archive_report", read="", argument="sys.argv[1]"
)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with mnist_png.zip")
    parser.add_argument("--root", type=Path, help="root of a finished run over it")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, help="keep the synthetic table here, or use it")
    parser.add_argument("--prepare", action="store_true", help="make both, measure nothing")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-report-") as folder:
        root = options.root or Path(folder) / "run"
        if options.data is not None and not (root / "metadata.sqlite").exists():
            make_run(options.data / "mnist_png.zip", root)
        output = options.output or Path(folder) / "out"
        if not (output / ledger.MANIFEST).exists():
            make_table(output, options.rows)
        if options.prepare:
            return
        if (root / "metadata.sqlite").exists():
            figures.update(measure("run", _RUN, root))
        figures.update(measure("rows", _ARCHIVE, output))
    if not options.json:
        for name, value in figures.items():
            print(f"{name:24} {value:12.2f}")
    print_record(figures, {name: _TARGETS[name] for name in _TARGETS if name in figures})


def measure(name: str, code: str, folder: Path) -> dict[str, float]:
    """Makes one report in a fresh process."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    total = time.monotonic() - started
    _, peak, size = json.loads(done.stdout.splitlines()[-1])
    return {
        f"{name}_seconds": total,
        f"{name}_peak_gib": peak / 2**30,
        f"{name}_page_mb": size / 1e6,
    }


def make_run(archive: Path, root: Path) -> None:
    """Runs the pipeline over MNIST with one epoch."""
    subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "run", "--config", "mnist", "--root", str(root),
         "--set", f"input.paths={archive.resolve()}", "--set", "trainer.epochs=1",
         "--set", "evaluation.min_accuracy=0.5"],
        check=False,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def make_table(output: Path, rows: int) -> None:
    """Writes what a bulk job over a zip of `rows` members leaves."""
    output.mkdir(parents=True)
    archive = output / "images.zip"
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    content = cv2.imencode(".png", image)[1].tobytes()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for number in range(rows):
            file.writestr(f"scans/{number // 1000:04d}/{number:08d}.png", content)
    draw = np.random.default_rng(1)
    made = min(rows, _MADE)
    columns = {
        "given_label": pa.array(draw.choice(_CLASSES, made)).dictionary_encode(),
        "label": pa.array(draw.choice(_CLASSES, made)).dictionary_encode(),
        "probability": pa.array(draw.beta(8, 1, made).astype(np.float32)),
        "outlier_score": pa.array(draw.normal(size=made).astype(np.float32)),
        "verdict": pa.array(draw.choice(["accept", "review"], made, p=[0.95, 0.05])),
        "embedding": pa.FixedSizeListArray.from_arrays(
            pa.array(draw.normal(size=made * 16).astype(np.float32)), 16
        ),
    }
    verdicts: dict[str, int] = {}
    for unit, begin in enumerate(range(0, rows, _SHARD)):
        count = min(_SHARD, rows - begin)
        part = {name: column.slice(begin % (made - count + 1), count)
                for name, column in columns.items()}  # fmt: skip
        part["source"] = pa.array([str(archive)] * count).dictionary_encode()
        part["member"] = pa.array(
            [f"scans/{n // 1000:04d}/{n:08d}.png" for n in range(begin, begin + count)]
        )
        for verdict in part["verdict"].to_pylist():
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
        name = f"images.zip/{unit:06d}-0000"
        shard = f"{ledger.TABLE}/archive=images.zip/part-{unit:06d}-0000.parquet"
        path = output / shard
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(part), path, compression="zstd")
        record = ledger.UnitRecord(name, str(archive), files={shard: 1}, members=count, rows=count)
        ledger.Ledger(str(output)).write_record(record)
    _write_manifest(output, archive, rows, verdicts)


def _write_manifest(output: Path, archive: Path, rows: int, verdicts: dict[str, int]) -> None:
    config = BulkConfig(input=InputConfig(paths=(str(archive),)), model="gone", output=str(output))
    counts = dict.fromkeys(("members", "rows"), rows)
    counts |= dict.fromkeys(("rejects", "duplicates", "ignored"), 0)
    manifest: dict[str, Any] = {
        "written": "", "command": [], "config": config.model_dump(mode="json"),
        "model": {"path": "gone", "digests": {}, "classes": _CLASSES}, "counts": counts,
        "rejects": {}, "labels": dict.fromkeys(_CLASSES, rows // len(_CLASSES)),
        "verdicts": verdicts, "sources": {str(archive): counts}, "output": {"bytes": 0},
        "timing": {"this_run_seconds": 0.0, "images_per_second": 0.0}, "notes": [], "schema": [],
        "drift": None,
    }  # fmt: skip
    Path(posixpath.join(output, ledger.MANIFEST)).write_text(json.dumps(manifest))


if __name__ == "__main__":
    main()
