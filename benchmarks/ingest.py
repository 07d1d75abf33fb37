"""Ingest of MNIST's 70,000 PNGs from one zip, against stock ImportExampleGen.

    python -m benchmarks.ingest --data DIR [--json]

Images per second of both, executors alone, one after the other in processes of their own.
ImportExampleGen gets the same images as TFRecord files, whose making is not counted; ours reads
the zip, hashes, decodes every image, and looks for duplicates.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import print_record
from components.image_sources.config import InputConfig

ARCHIVE = "mnist_png.zip"
TARGET_RATIO = 3.0
MODES = {
    "in_memory": ["--direct_running_mode=in_memory", "--direct_num_workers=1"],
    "multi_processing": ["--direct_running_mode=multi_processing", "--direct_num_workers=0"],
}


def main() -> None:
    """Runs both sides in turn and prints the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {ARCHIVE}")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each side; the median is kept"
    )
    parser.add_argument("--mode", choices=sorted(MODES), default="in_memory", help="of our side")
    parser.add_argument("--threads", type=int, help="threads that check images, per worker")
    parser.add_argument("--side", choices=["ours", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run = {"ours": run_ours, "stock": run_stock}[options.side]
        print(json.dumps(run(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sides: dict[str, list[dict[str, Any]]] = {"ours": [], "stock": []}
        for repeat in range(options.repeats):
            # Ours comes first: the stock side's input is made of its records.
            for side, runs in sides.items():
                runs.append(in_process(side, options, work / f"{side}-{repeat}"))
                if not options.json:
                    print(f"{side}: {runs[-1]['images'] / runs[-1]['seconds']:,.0f} images/s")
                if side == "ours":
                    stock_input(work / f"ours-{repeat}", work / "input")
                shutil.rmtree(work / f"{side}-{repeat}")
    rates = {
        side: median([r["images"] / r["seconds"] for r in runs]) for side, runs in sides.items()
    }
    print_record(
        {
            "images_per_second": rates["ours"],
            "stock_images_per_second": rates["stock"],
            "vs_import_example_gen": rates["ours"] / rates["stock"],
            "peak_memory_mib": median([r["peak_mib"] for r in sides["ours"]]),
            "stock_peak_memory_mib": median([r["peak_mib"] for r in sides["stock"]]),
        },
        {"vs_import_example_gen": TARGET_RATIO},
    )


def median(values: list[float]) -> float:
    """Gives the middle value."""
    return sorted(values)[len(values) // 2]


def in_process(side: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Runs one side in a fresh process; gives what its last line says, and its peak memory."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--side", side, "--work", str(work)]
    command += ["--data", str(options.data), "--mode", options.mode]
    if options.threads:
        command += ["--threads", str(options.threads)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def stock_input(artifact: Path, target: Path) -> None:
    """Makes what a stock user has: the records as TFRecord files, two splits."""
    if target.exists():
        return
    for stock, splits in (("train", ("train", "validation", "calibration")), ("eval", ("test",))):
        (target / stock).mkdir(parents=True)
        files = [
            path for split in splits for path in sorted((artifact / f"Split-{split}").iterdir())
        ]
        # As many files as a careful user would make, for Beam to read in parallel.
        for number in range(8):
            with (target / stock / f"{number}.tfrecord").open("wb") as sink:
                for path in files[number::8]:
                    sink.write(path.read_bytes())


def run_executor(
    executor_class: Any, uri: Path, args: list[str], properties: dict[str, Any]
) -> float:
    """Runs a TFX executor; gives the seconds of its `Do`."""
    from tfx.dsl.components.base import base_beam_executor
    from tfx.types import standard_artifacts

    artifact = standard_artifacts.Examples()
    artifact.uri = str(uri)
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=["--runner=DirectRunner", *args], tmp_dir=str(uri.parent / "tmp")
    )
    executor = executor_class(context)
    begin = time.perf_counter()
    executor.Do({}, {"examples": [artifact]}, properties)
    return time.perf_counter() - begin


def run_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Runs ImageExampleGen's executor."""
    from components.image_example_gen import executor

    archive = options.data / ARCHIVE if options.data.is_dir() else options.data
    config = InputConfig.model_validate({"paths": str(archive)})
    properties = {"input_config": config.model_dump_json(), "input_fingerprint": "given"}
    if options.threads:
        properties["threads"] = options.threads
    seconds = run_executor(executor.Executor, options.work, MODES[options.mode], properties)
    account = json.loads((options.work / "account.json").read_text())
    return {"images": account["images_in"], "seconds": seconds, "peak_mib": peak_mib()}


def run_stock(options: argparse.Namespace) -> dict[str, Any]:
    """Runs ImportExampleGen's executor on the same images."""
    from tfx.components.example_gen import utils
    from tfx.components.example_gen.import_example_gen import executor
    from tfx.proto import example_gen_pb2
    from tfx.utils import proto_utils

    source = options.work.parent / "input"
    splits = [
        example_gen_pb2.Input.Split(name=name, pattern=f"{name}/*") for name in ("train", "eval")
    ]
    config = example_gen_pb2.Input(splits=splits)
    properties = {
        "input_base": str(source),
        "input_config": proto_utils.proto_to_json(config),
        "output_config": proto_utils.proto_to_json(utils.make_default_output_config(config)),
        "output_data_format": example_gen_pb2.FORMAT_TF_EXAMPLE,
        "output_file_format": example_gen_pb2.FORMAT_TFRECORDS_GZIP,
    }
    seconds = run_executor(executor.Executor, options.work, MODES["in_memory"], properties)
    images = count(source)
    return {"images": images, "seconds": seconds, "peak_mib": peak_mib()}


def count(source: Path) -> int:
    """Counts the records of the stock side's input."""
    from components.tfrecord_frames import record_spans

    images = 0
    for path in source.glob("*/*.tfrecord"):
        with path.open("rb") as file:
            images += sum(1 for _ in record_spans(file))
    return images


def peak_mib() -> float:
    """Largest resident memory of this process or of any of its children, MiB."""
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, children) / 1024


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
