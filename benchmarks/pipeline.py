"""The whole job against the same job with stock TFX components, side by side in one run.

    python -m benchmarks.pipeline --data DIR [--json]

`DIR` holds `mnist_png.zip` (`train/<digit>/*.png`, `test/<digit>/*.png`). Each side runs in a
fresh process, imports included: ingest to push with one epoch of training, then inference over
all images. Without `--data` only the digits are measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.record import print_record
from benchmarks.vaeline_command import run_vaeline
from pipeline.digits import write_digits

_TARGETS = {"vs_stock_tfx": 0.5, "demo_seconds": 35.0, "demo_accuracy": 0.97}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with mnist_png.zip")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures.update(measure_demo(folder / "demo"))
        if arguments.data is not None:
            archive = arguments.data / "mnist_png.zip"
            figures.update(measure_pair("digits_", _digits_archive(folder), [8, 8, 1], folder))
            figures.update(measure_pair("", archive, [28, 28, 1], folder / "mnist"))
    if not arguments.json:
        for name, value in figures.items():
            print(f"{name:40} {value:10.2f}")
    print_record(figures, {name: _TARGETS[name] for name in _TARGETS if name in figures})


def measure_demo(root: Path) -> dict[str, float]:
    """Runs `vaeline demo` in a fresh process."""
    outcome = run_vaeline("demo", "--root", str(root))
    result = outcome.result
    steps = result["pipeline"]["steps"]
    return {
        "demo_seconds": outcome.seconds,
        "demo_accuracy": result["held_out_accuracy"],
        **{f"demo_{name}": step["seconds"] for name, step in steps.items()},
    }


def measure_pair(prefix: str, archive: Path, shape: list[int], folder: Path) -> dict[str, float]:
    """Runs both sides on one archive and compares the wall times of their processes."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = _measure_ours(archive, shape, folder / "ours")
    stock = _measure_stock(archive, shape, folder / "stock")
    figures = {f"{prefix}ours_{name}": seconds for name, seconds in ours.items()}
    figures |= {f"{prefix}stock_{name}": seconds for name, seconds in stock.items()}
    figures[f"{prefix}vs_stock_tfx"] = ours["total"] / stock["total"]
    return figures


def _measure_ours(archive: Path, shape: list[int], root: Path) -> dict[str, float]:
    root.mkdir(parents=True)
    report = root / "report.json"
    return _timed(
        ["-m", "benchmarks.whole_job", str(archive), str(root), json.dumps(shape), str(report)],
        report,
    )


def _measure_stock(archive: Path, shape: list[int], root: Path) -> dict[str, float]:
    root.mkdir(parents=True)
    records = root / "records"
    code = (
        "import sys; from pathlib import Path; from benchmarks import pipeline, stock_tfx; "
        "stock_tfx.write_records(pipeline.members(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    _python("-c", code, str(archive), str(records))
    report = root / "report.json"
    return _timed(
        ["-m", "benchmarks.stock_tfx", str(records), str(root), json.dumps(shape), str(report)],
        report,
    )


def _timed(arguments: list[str], report: Path) -> dict[str, float]:
    started = time.monotonic()
    _python(*arguments)
    total = time.monotonic() - started
    return {**json.loads(report.read_text(encoding="utf-8")), "total": total}


def _python(*arguments: str) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    subprocess.run(
        [sys.executable, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL
    )


def members(archive: Path) -> Iterator[tuple[bytes, str, str]]:
    """Yields image, class and split of every member of a zip.

    Where the archive has no `test` folder, every fifth image is for evaluation.
    """
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.endswith(".png")]
        has_test = any(name.split("/")[-3:-2] == ["test"] for name in names)
        for number, name in enumerate(names):
            *_, group, label, _ = ["", *name.split("/")]
            held_out = group == "test" if has_test else number % 5 == 0
            yield file.read(name), label, "eval" if held_out else "train"


def _digits_archive(folder: Path) -> Path:
    return write_digits(folder / "digits").labelled


if __name__ == "__main__":
    main()
