"""The rule behind `precision: auto` and `xla: auto` beside every other choice, on this machine.

`python -m benchmarks.precision [--images N]` trains each network some seconds in each arithmetic,
in fresh processes on synthetic images: images per second once compiled, and seconds until the first
graph call is done, compilation included. `auto_vs_best`: for a training of N images, compilation
included, the time of the best choice over the time of what the rule chooses.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.record import print_record

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp_28": {"shape": (28, 28, 1), "batch": 128, "steps": 400, "model": {}},
    "conv_28": {"shape": (28, 28, 1), "batch": 128, "steps": 16, "model": {"encoder": "conv"}},
    "conv_64_colour": {
        "shape": (64, 64, 3),
        "batch": 128,
        "steps": 6,
        "model": {"encoder": "conv", "latent_size": 32, "observation": "discretized_logistic"},
    },
}
"""The last one is the README's example."""
CHOICES = [("float32", "off"), ("float32", "on"), ("bfloat16", "off")]
TARGETS = {
    **{f"auto_vs_best_{name}": 0.95 for name in NETWORKS},
    "first_call_secs_conv_64_colour": 20.0,
}


def measure(network: str, precision: str, xla: str) -> dict[str, Any]:
    """Trains in this process; what was used, its speed and the seconds of the first call."""
    from trainer.config import ModelConfig, TrainerConfig
    from trainer.data.input_pipeline import ImageSet
    from trainer.optimization.callbacks import TrainingProgress
    from trainer.train import train

    given = NETWORKS[network]
    shape, batch, steps = given["shape"], given["batch"], given["steps"]
    draw = np.random.default_rng(0)
    count = 4 * batch
    images = ImageSet(
        draw.integers(0, 256, (count, *shape), np.uint8),
        draw.integers(0, 10, count).astype(np.int32),
    )
    begin = time.monotonic()
    calls: list[float] = []

    def note(event: TrainingProgress) -> None:
        calls.append(time.monotonic() - begin)

    with tempfile.TemporaryDirectory() as folder:
        result = train(
            model_config=ModelConfig.model_validate(given["model"]),
            trainer_config=TrainerConfig(
                epochs=steps * batch / count,
                batch_size=batch,
                precision=precision,  # type: ignore[arg-type]
                xla=xla,  # type: ignore[arg-type]
                steps_per_call=max(1, steps // 4),
                evaluate_every_epochs=steps,
                tensorboard=False,
            ),
            data={"train": images},
            image_shape=shape,
            num_classes=10,
            pixel_mean=[0.5] * shape[2],
            pixel_std=[0.25] * shape[2],
            workdir=folder,
            progress=note,
            fit_scores=False,
        )
        with open(f"{folder}/arithmetic.json", encoding="utf-8") as file:
            used = json.load(file)
    return {"used": used, "images_per_sec": result.images_per_sec, "first_call_secs": calls[0]}


def chosen(network: str) -> dict[str, Any]:
    """What the rule chooses."""
    import dataclasses

    from trainer.config import ModelConfig, TrainerConfig
    from trainer.model.vae_classifier import VaeClassifier
    from trainer.optimization import arithmetic

    given = NETWORKS[network]
    model = VaeClassifier(
        config=ModelConfig.model_validate(given["model"]), image_shape=given["shape"],
        num_classes=10, pixel_mean=[0.5] * given["shape"][2], pixel_std=[0.2] * given["shape"][2],
    )  # fmt: skip
    return dataclasses.asdict(
        arithmetic.choose(
            TrainerConfig(), model, replicas=1, clustered=False,
            hardware=arithmetic.detect_hardware(),
        )
    )  # fmt: skip


def in_fresh_process(*arguments: str) -> dict[str, Any]:
    """Runs this program for one measurement."""
    command = [sys.executable, "-m", "benchmarks.precision", "--measure", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures everything and prints the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600_000, help="length of the training")
    parser.add_argument("--data", help="not needed; other benchmarks take it")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        network, *choice = arguments.measure
        found = measure(network, *choice) if choice else chosen(network)
        print(json.dumps(found))
        return
    figures: dict[str, float] = {}
    for network in NETWORKS:
        secs: dict[str, float] = {}
        for precision, xla in CHOICES:
            found = in_fresh_process(network, precision, xla)
            name = json.dumps(found["used"], sort_keys=True)
            speed, first = found["images_per_sec"], found["first_call_secs"]
            secs[name] = first + arguments.images / speed
            label = f"{network}_{precision}{'_xla' if xla == 'on' else ''}"
            figures[f"images_per_sec_{label}"] = speed
            figures[f"first_call_secs_{label}"] = first
            if not arguments.json:
                print(f"{label}: {speed:,.0f} images/s, first call {first:.1f} s", flush=True)
        auto = json.dumps(in_fresh_process(network), sort_keys=True)
        figures[f"auto_vs_best_{network}"] = min(secs.values()) / secs[auto]
        if network == "conv_64_colour":
            at = next(p for p, x in CHOICES if x == "off" and p in auto)
            figures["first_call_secs_conv_64_colour"] = figures[f"first_call_secs_{network}_{at}"]
    print_record(figures, TARGETS)


if __name__ == "__main__":
    main()
