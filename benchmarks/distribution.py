"""One device against two replicas (logical CPUs) and two workers: loss curves and speed.

`python -m benchmarks.distribution --steps 50`
Same global batch, float32, MNIST. Beside them runs one device again whose input is off by one
rounding (`rounding`): with `--encoder conv` the normalisation's statistics carry a rounding error
into every activation, a few of which pass the kink of a ReLU by it, and from there no two orders of
summation stay together. And one (`parts`) with `trainer.parts: 2`, which normalises by the
replicas' formula and sums in their order. Runs itself once per kind, in fresh processes, because
devices and clusters are chosen before TensorFlow starts.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks.image_sets import mnist, parser, record
from components.serving_check.server import free_port

ROOT = pathlib.Path(__file__).parents[1]
BATCH = 128
ROLES = ("one", "rounding", "parts", "mirrored", "worker")


def train_one(arguments: argparse.Namespace) -> None:
    """Trains as one process of one kind and writes its losses."""
    import tensorflow as tf

    from benchmarks.mnist_supervised import MODEL, TRAINER
    from trainer.config import ModelConfig, TrainerConfig
    from trainer.data.input_pipeline import ImageSet
    from trainer.optimization import strategy as strategies
    from trainer.train import train

    if arguments.role == "mirrored":
        cpus = tf.config.list_physical_devices("CPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpus[0], logical)
    devices = {"mirrored": "mirrored", "worker": "multi_worker"}.get(arguments.role, "one")
    strategy = strategies.create_strategy(devices)
    deviation = np.float32(0.31)
    if arguments.role == "rounding":
        deviation = np.nextafter(deviation, np.float32(1.0))
    full, _ = mnist(arguments.data)
    data = ImageSet(full.images[:10_000], full.labels[:10_000])
    epochs = arguments.steps * BATCH / len(data)
    options: dict[str, Any] = {
        **TRAINER,
        # The recipe's own optimiser, of whose warm-up (115 steps) these are the first.
        "optimizer": {**TRAINER["optimizer"], "warmup_epochs": epochs, "schedule": "constant"},
        "batch_size": BATCH,
        "parts": 2 if arguments.role == "parts" else 1,
        "epochs": epochs,
        "evaluate_every_epochs": BATCH / len(data),
        "precision": "float32",
        "xla": "off",
        "importance_samples": 0,
    }
    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as workdir:
        result = train(
            model_config=ModelConfig.model_validate(
                {**MODEL, "conv_width": 8, "encoder": arguments.encoder}
            ),
            trainer_config=TrainerConfig.model_validate(options),
            data={"train": data},
            image_shape=(28, 28, 1),
            num_classes=10,
            pixel_mean=[0.13],
            pixel_std=[float(deviation)],
            workdir=arguments.shared or workdir,
            strategy=strategy,
            progress=lambda event: speeds.append(event.images_per_sec),
        )
    losses = [entry["train"]["loss"] for entry in result.history]
    record_path = pathlib.Path(arguments.result)
    record_path.write_text(json.dumps({"losses": losses, "speed": max(speeds, default=0.0)}))


def run(arguments: argparse.Namespace, folder: pathlib.Path, role: str) -> dict[str, Any]:
    """Runs the processes of one kind; the first's result."""
    clusters: list[dict[str, Any] | None] = [None]
    if role == "worker":
        hosts = [f"localhost:{free_port()}" for _ in range(2)]
        cluster = {"chief": hosts[:1], "worker": hosts[1:]}
        clusters = [{"cluster": cluster, "task": {"type": kind, "index": 0}} for kind in cluster]
    processes = []
    for number, cluster_config in enumerate(clusters):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        if cluster_config:
            environment["TF_CONFIG"] = json.dumps(cluster_config)
        command = [sys.executable, "-m", "benchmarks.distribution", "--role", role,
                   "--steps", str(arguments.steps),
            "--encoder", arguments.encoder, "--data", str(arguments.data),
                   "--result", str(folder / f"{role}-{number}.json")]  # fmt: skip
        if role == "worker":
            command += ["--shared", str(folder / "shared")]
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        )
    for process in processes:
        process.wait()
    return json.loads((folder / f"{role}-0.json").read_text())


def main() -> None:
    """Runs every kind and prints the record."""
    arguments = _arguments()
    if arguments.role:
        train_one(arguments)
        return
    arguments.data = arguments.data.resolve()
    with tempfile.TemporaryDirectory() as folder:
        results = {role: run(arguments, pathlib.Path(folder), role) for role in ROLES}
    one = np.array(results["one"]["losses"])
    differences = {
        role: float(np.abs(np.array(results[role]["losses"]) - one).max()) for role in ROLES[1:]
    }
    parts = np.array(results["parts"]["losses"])
    alike = {
        role: float(np.abs(np.array(results[role]["losses"]) - parts).max())
        for role in ("mirrored", "worker")
    }
    speeds = {role: result["speed"] for role, result in results.items()}
    record(
        arguments,
        "distribution",
        {
            "encoder": arguments.encoder,
            "steps": len(one),
            "largest_loss_difference": differences,
            "largest_loss_difference_to_parts": alike,
            "images_per_sec": speeds,
        },
    )


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--steps", type=int, default=50)
    made.add_argument("--encoder", choices=("mlp", "conv"), default="mlp")
    made.add_argument("--role", choices=ROLES,
                      help=argparse.SUPPRESS)  # fmt: skip
    made.add_argument("--result", help=argparse.SUPPRESS)
    made.add_argument("--shared", help=argparse.SUPPRESS)
    return made.parse_args()


if __name__ == "__main__":
    main()
