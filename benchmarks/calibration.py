"""Calibration error before and after the temperature, on test splits of the digits and of MNIST.

`python -m benchmarks.calibration --data DIR --digits ROOT --mnist ROOT` reads two roots of
`vaeline run`; without them the digits' pipeline is run here, and `configs/mnist.yaml` on
`DIR/mnist_png.zip`. The error is that of the gate: 15 bins of equal mass.
"""

import argparse
import json
import logging
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.image_sets import parser, record
from pipeline.config import PipelineConfig, load_config
from pipeline.console import Terminal
from pipeline.digits import write_digits
from pipeline.jobs import train_and_push
from pipeline.runs.store import latest_run
from serving import names
from trainer.data import features
from trainer.data.preprocessing import parse_records
from trainer.model_card import EXPORTED_CARD, parse_card
from trainer.quality.confidence_grid import ConfidenceGrid

_BATCH = 512


def main() -> None:
    """Measures both models and prints the record."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as temporary:
        roots = {
            "digits": arguments.digits or _run_digits(pathlib.Path(temporary) / "digits"),
            "mnist": arguments.mnist or _run_mnist(pathlib.Path(temporary) / "mnist", arguments),
        }
        record(arguments, "calibration", {name: measure(root) for name, root in roots.items()})


def measure(root: pathlib.Path) -> dict[str, float]:
    """Measures the model of the latest run in a root on its test split.

    The export answers with p = softmax(z / T). As log p is z / T up to a constant of the image,
    softmax(T log p) is what the model would say without its temperature.

    Args:
        root: Of a `vaeline run`.

    Returns:
        Errors before and after, the temperature, the accuracy, and the number of images.
    """
    steps = latest_run(root).steps
    folder = pathlib.Path(steps["Trainer"].output("model")) / "Format-Serving"
    card = parse_card((folder / EXPORTED_CARD).read_bytes())
    temperature = card.calibration.temperature.value
    signatures = tf.saved_model.load(str(folder)).signatures
    before, after = ConfidenceGrid(), ConfidenceGrid()
    hits = images = 0
    for examples in _records(pathlib.Path(steps["ImageExampleGen"].output("examples"))):
        calibrated = signatures[names.CLASSIFY_EXAMPLES](**{names.EXAMPLES: examples})[
            names.PROBABILITIES
        ].numpy()
        labels = signatures[names.TRANSFORM_LABELS](**{names.EXAMPLES: examples})[
            names.LABEL_INDEX
        ].numpy()[:, 0]
        right = calibrated.argmax(axis=1) == labels
        after.add_all(calibrated.max(axis=1), right)
        before.add_all(_without(calibrated, temperature).max(axis=1), right)
        hits, images = hits + int(right.sum()), images + len(right)
    return {
        "ece_before": before.calibration_error(),
        "ece_after": after.calibration_error(),
        "temperature": temperature,
        "accuracy": hits / images,
        "images": images,
    }


def _without(calibrated: np.ndarray, temperature: float) -> np.ndarray:
    """Takes a temperature out of probabilities, float [n, K]."""
    logits = temperature * np.log(np.maximum(calibrated.astype(np.float64), 1e-300))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _records(examples: pathlib.Path) -> Iterator[tf.Tensor]:
    """Batches of the test split's labelled records, string [batch]."""
    files = sorted(str(path) for path in (examples / f"Split-{features.TEST}").iterdir())
    for batch in tf.data.TFRecordDataset(files).batch(_BATCH):
        _, texts = parse_records(batch)
        labelled = tf.boolean_mask(batch, texts != "")
        if len(labelled):
            yield labelled


def _run_digits(root: pathlib.Path) -> pathlib.Path:
    write_digits(root / "archives")
    return _run(load_config("digits", root=root), root)


def _run_mnist(root: pathlib.Path, arguments: argparse.Namespace) -> pathlib.Path:
    archive = json.dumps(str(arguments.data / "mnist_png.zip"))
    overrides = [f"input.paths={archive}", f"trainer.epochs={arguments.epochs}"]
    return _run(load_config("mnist", overrides=overrides, root=root), root)


def _run(config: PipelineConfig, root: pathlib.Path) -> pathlib.Path:
    # On standard error, so that the record stays the last line of the output.
    terminal: Any = Terminal(as_json=True)
    train_and_push(terminal, config, root=root)
    return root


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--digits", type=pathlib.Path, help="root of a run on the digits")
    made.add_argument("--mnist", type=pathlib.Path, help="root of a run on MNIST")
    made.add_argument("--epochs", type=float, default=10.0, help="of MNIST, where it is run here")
    return made.parse_args()


if __name__ == "__main__":
    main()
