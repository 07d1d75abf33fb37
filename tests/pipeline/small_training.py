"""A training small enough for tests, as TFX's Trainer starts it; also a program that runs it.

`python -m tests.pipeline.small_training INPUTS OUT` calls `run_fn` and prints each step, so that a
test can kill it on the way, or run it as one of several workers. At the step that the variable
`WAIT_AT` names it waits for the signal, however busy the test's own process is.
"""

import functools
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from components.image_sources.config import LimitsConfig
from serving.golden import GoldenSet
from serving.names import EMBED_PIXELS
from serving.signatures import Signature, create_signatures
from tests.limits import HANG_SECS
from tests.trainer import tiny
from tests.trainer.test_streams import write_examples
from trainer.data import features
from trainer.data.preprocessing import preprocessing_fn
from trainer.optimization.preemption import PREEMPTED_EXIT_CODE, PreemptedError
from trainer.progress import PROGRESS_LOGGER

SPLITS = {"train": 160, "validation": 48, "calibration": 64}


def make_inputs(folder: Path) -> Path:
    """Writes Examples and the Transform graph, as the steps before the Trainer do."""
    rows = []
    for number, (split, count) in enumerate(SPLITS.items()):
        data = tiny.image_set(count, seed=number)
        names = [f"bar {label}" for label in data.labels]
        write_examples(folder / "examples" / f"Split-{split}" / "data.tfrecord", data, names)
        rows += [
            {
                features.ENCODED: [tf.io.encode_png(image).numpy()],
                features.LABEL_TEXT: [name.encode()],
            }
            for image, name in zip(data.images, names, strict=True)
            if split == features.TRAIN
        ]
    spec = {name: tf.io.FixedLenFeature([1], tf.string) for name in rows[0]}
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    function = functools.partial(preprocessing_fn, custom_config={"image": tiny.IMAGE.model_dump()})
    with (
        beam.Pipeline(runner="FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(folder / "temporary")),
    ):
        table = (pipeline | beam.Create(rows), metadata)
        _ = (
            table
            | tft_beam.AnalyzeDataset(function)
            | tft_beam.WriteTransformFn(str(folder / "transform"))
        )
    return folder


def options(**trainer: Any) -> dict[str, Any]:
    """The sections that determine the model."""
    height, width, channels = tiny.SHAPE
    small = {"epochs": 4, "steps_per_call": 3, "checkpoints": {"every_secs": 0}, **trainer}
    return {
        "name": "small",
        "input": {"limits": LimitsConfig().model_dump(mode="json")},
        "image": {"height": height, "width": width, "channels": channels},
        "model": tiny.model_config(dropout=0.2).model_dump(mode="json"),
        "trainer": tiny.trainer_config(**small).model_dump(mode="json"),
    }


def arguments(
    inputs: Path, out: Path, training: dict[str, Any], base_model: str | None = None
) -> SimpleNamespace:
    """What TFX's Trainer hands to `run_fn`; `out` stands for one execution's folders."""
    model_run = out / "model_run"
    model_run.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(
        train_files=[str(inputs / "examples" / "Split-train" / "*")],
        transform_graph_path=str(inputs / "transform"),
        serving_model_dir=str(out / "model" / "Format-Serving"),
        model_run_dir=str(model_run),
        hyperparameters=None,
        base_model=base_model,
        custom_config={
            "training": json.dumps(training),
            "code_digest": "code",
            "training_folders": str(inputs / "training"),
        },
    )


def export_little(patch: pytest.MonkeyPatch) -> None:
    """Makes exports quick where only their weights and their card are read.

    They have one signature, and no golden set, both of which the tests of serving load.
    """

    def one_signature(*given: Any, **named: Any) -> list[Signature]:
        return [each for each in create_signatures(*given, **named) if each.name == EMBED_PIXELS]

    nothing = GoldenSet([], np.zeros(0, np.uint8), {})
    patch.setattr("serving.export.create_signatures", one_signature)
    patch.setattr("serving.export.answer_in_memory", lambda *given, **named: nothing)


def exported_digests(out: Path) -> dict[str, str]:
    """Digests of the weights that an execution exported."""
    card = out / "model" / "Format-Serving" / "assets.extra" / "model.json"
    return json.loads(card.read_text("utf-8"))["digests"]


class _Steps(logging.Handler):
    """Prints the lines that `run_fn` says of its progress."""

    def __init__(self) -> None:
        super().__init__()
        self._wait_at = int(os.environ.get("WAIT_AT") or 0)

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        if self._wait_at and (step_of(line) or 0) >= self._wait_at:
            self._wait_at = 0
            end = time.monotonic() + HANG_SECS
            while time.monotonic() < end:
                if getattr(signal.getsignal(signal.SIGTERM), "requested", False):
                    return
                time.sleep(0.02)


def step_of(line: str) -> int | None:
    """The step of a line such as `step 9/40 ...`."""
    words = line.split()
    return int(words[1].split("/")[0]) if words[:1] == ["step"] else None


def main(inputs: Path, out: Path, training: dict[str, Any]) -> int:
    """Runs one execution; the exit code is that of the command line."""
    from pipeline.run_fn import run_fn

    logger = logging.getLogger(PROGRESS_LOGGER)
    logger.addHandler(_Steps())
    logger.setLevel(logging.INFO)
    with pytest.MonkeyPatch.context() as patch:
        export_little(patch)
        try:
            run_fn(arguments(inputs, out, training))
        except PreemptedError:
            return PREEMPTED_EXIT_CODE
    return 0


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    given = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), options(**given)))
