"""A run's artifacts and a bulk output with every name as hostile as names can be, made in seconds.

No pipeline runs: the folders are laid out as the components leave them.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import yaml
from sklearn.datasets import load_digits
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from components import tfrecord_frames
from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.image_checks import ImageHeader
from components.image_example_gen import records
from components.image_example_gen.account import Account, name_of
from components.image_example_gen.tables import FOUND
from components.image_sources.config import InputConfig
from components.image_sources.label_config import LabelsConfig
from components.model_gate.intervals import Interval
from components.model_gate.unlabelled_gain import GAIN, UnlabelledGain
from components.model_gate.verdict import VERDICT_JSON, Check, Result, Verdict
from components.sinks import REJECT_SCHEMA, parquet_table
from pipeline.report.album import decode_picture
from pipeline.runs.run import Run
from pipeline.runs.step import Step
from tests.components.bulk_inference.archives import write_zip
from tests.components.bulk_inference.model_fixture import BOUNDS, export_model, summarise
from trainer.data import features
from trainer.quality.strip import FOLDER, ORIGINALS

SCRIPT = "<script>alert(1)</script>"
CLASSES = (
    SCRIPT,
    '"><img src=x onerror=alert(2)>',
    "{{ 7 * 7 }} {% raw %} $x$ &amp;",
    "\u05e9\u05dc\u05d5\u05dd \u202egnp.exe",
    "w" * 300,
    "bell\x07 and \x1b[31m",
)
SPLITS = {features.TRAIN: 120, features.CALIBRATION: 12, features.TEST: 60}


@dataclass(frozen=True)
class Images:
    """Digits as PNG files, with a class for each."""

    files: list[bytes]
    labels: list[str]


def encode(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture(scope="session")
def images() -> Images:
    digits = load_digits()
    levels = np.minimum(digits.images * 16, 255).astype(np.uint8)
    files = [encode(image) for image in levels[: sum(SPLITS.values())]]
    return Images(files, [CLASSES[place % len(CLASSES)] for place in range(len(files))])


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Path:
    """A SavedModel with hostile classes, and a card with calibration and summaries."""
    folder = export_model(tmp_path_factory.mktemp("report") / "Format-Serving", classes=CLASSES)
    path = folder / "assets.extra" / "model.json"
    card = json.loads(path.read_text())
    card["calibration"] = {
        "split": "calibration",
        "temperature": {"value": 0.5, "gain": 0.1},
        "thresholds": {"review": {"score": 0.7, "rate": 0.05}, "reject": {"score": None}},
        "outlier_score": {"chosen": "combined"},
    }
    answer = tf.saved_model.load(str(folder)).signatures["annotate"](
        image_bytes=tf.constant(images.files)
    )
    decoded = map(decode_picture, images.files)
    pixels = np.stack([image for image in decoded if image is not None])
    card["summaries"] = summarise(pixels, {name: value.numpy() for name, value in answer.items()})
    card["summaries"]["latent"]["std"] = [1.0, 0.5, 0.05, 0.001]
    card["pretraining"] = {"line": f"pretraining: 2 passes {SCRIPT} \x1b[31m"}
    card["taught"] = {"line": f"teachers: 2 trainings {SCRIPT} \x1b[31m"}
    path.write_text(json.dumps(card))
    return folder


@pytest.fixture
def run(tmp_path: Path, model: Path, images: Images) -> Run:
    """A finished run with all its artifacts."""
    root = tmp_path / f"root {SCRIPT.replace('/', '')}"
    examples = root / "artifacts" / "ImageExampleGen" / "examples" / "1"
    _write_examples(examples, images)
    archive = root / "rejected.zip"
    write_zip(archive, {f"{SCRIPT.replace('/', '')}.png": images.files[0]})
    member = f"{SCRIPT.replace('/', '')}.png"
    rejected = (f"{archive}/{member}", str(archive), member, "check", "too_large", CLASSES[1])
    (examples / "rejects.parquet").write_bytes(parquet_table([rejected], REJECT_SCHEMA))
    found = ("d2", f"{archive}/{member}", CLASSES[1], "train", ["blank", "odd_size"], *[1.0] * 6)
    (examples / "findings.parquet").write_bytes(parquet_table([found], FOUND))

    statistics = root / "statistics"
    _write_statistics(statistics / "Split-train")
    anomalies = root / "anomalies" / "Split-train"
    anomalies.mkdir(parents=True)
    found = anomalies_pb2.Anomalies()
    found.anomaly_info["image/width"].description = f"values of {SCRIPT}"
    (anomalies / "SchemaDiff.pb").write_bytes(found.SerializeToString())

    model_run = root / "artifacts" / "Trainer" / "model_run" / "7"
    _write_training(model_run)
    config = {"name": "hostile", "input": {"paths": [str(archive)]},
              "evaluation": {"labelled_only": "report"},
              "model": {"latent_size": 4}}  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    overall = {"accuracy": 0.95, "log_loss": 0.2, "example_count": 60.0}
    check = Check(f"recall of {SCRIPT}", "0.95 (0.86 to 0.98)", ">= 0.99", Result.REFUSED,
                  blocks=True, reason=f"accuracy is low: {CLASSES[1]}")  # fmt: skip
    gain = UnlabelledGain(59_900, 100, 60, 0.95, 0.85, Interval(0.02, 0.2), 0.2, 0.5,
                          Interval(-0.5, -0.1), 0.95)  # fmt: skip
    blessing = root / "blessing"
    blessing.mkdir()
    verdict = Verdict(
        checks=[check], first_model=True, measures={"overall": overall, GAIN: gain.as_dict()}
    )
    (blessing / VERDICT_JSON).write_text(verdict.to_json())
    search = root / "best_hyperparameters"
    search.mkdir()
    values = {"trainer.optimizer.learning_rate": 0.00123456, "model.encoder": f"{SCRIPT} \x1b[31m",
              "tuner/x": 1}  # fmt: skip
    (search / "best_hyperparameters.txt").write_text(json.dumps({"space": [], "values": values}))
    steps = {
        "ImageExampleGen": _step("ImageExampleGen", examples=examples),
        "StatisticsGen": _step("StatisticsGen", statistics=statistics),
        "ExampleValidator": _step("ExampleValidator", anomalies=anomalies.parent),
        "Tuner": _step("Tuner", best_hyperparameters=search),
        "Trainer": _step("Trainer", model=model.parent, model_run=model_run),
        "ModelGate": _step("ModelGate", blessing=blessing),
    }
    return Run("2026-11-22T10:00:00", 0.0, root, steps)


def _step(name: str, **outputs: Path) -> Step:
    folders = {key: [str(path)] for key, path in outputs.items()}
    return Step(name, seconds=1.5, outputs=folders)


def _write_examples(folder: Path, images: Images) -> None:
    account = Account(seconds=1.0, bytes=sum(map(len, images.files)))
    header = ImageHeader("png", 8, 8, 1)
    begin = 0
    for split, count in SPLITS.items():
        part = slice(begin, begin + count)
        begin += count
        labels = images.labels[part]
        for label in labels:
            account.examples[name_of(split, label)] += 1
        keys = [f"a.zip/{label}/{place}.png" for place, label in enumerate(labels)]
        found = [hashlib.sha256(content).digest() for content in images.files[part]]
        digests = np.frombuffer(b"".join(found), np.uint8).reshape(count, 32)
        encoded = records.encode(keys, images.files[part], [header] * count, digests, labels)
        target = folder / f"Split-{split}"
        target.mkdir(parents=True)
        # Two files, so that sampling has to count over both.
        (target / "0.tfrecord").write_bytes(tfrecord_frames.frame(encoded[: count // 3]))
        (target / "1.tfrecord").write_bytes(tfrecord_frames.frame(encoded[count // 3 :]))
    account.rejected["too_large"] = 1
    account.with_findings = account.findings["blank"] = account.findings["odd_size"] = 1
    account.finding_bounds = BOUNDS
    account.conflicts = 1
    account.conflict_names = [("d1", "a.zip/x.png", CLASSES[0]), ("d1", "a.zip/y.png", CLASSES[1])]
    (folder / "account.json").write_text(json.dumps(account.to_json()))


def _write_statistics(folder: Path) -> None:
    folder.mkdir(parents=True)
    listed = statistics_pb2.DatasetFeatureStatisticsList()
    data = listed.datasets.add(num_examples=120)
    for name in (features.WIDTH, features.HEIGHT):
        feature = data.features.add()
        feature.path.step.append(name)
        feature.num_stats.min, feature.num_stats.median, feature.num_stats.max = 4, 8, 1200
    kinds = data.features.add()
    kinds.path.step.append(features.FORMAT)
    kinds.string_stats.rank_histogram.buckets.add(label="png", sample_count=120)
    (folder / "FeatureStats.pb").write_bytes(listed.SerializeToString())


def _write_training(folder: Path) -> None:
    (folder / FOLDER).mkdir(parents=True)
    history = [
        {"step": step, "epoch": step / 10,
         "train": {"loss": 9.0 / step, "accuracy": 0.5, "kl": 0.0},
         "validation": {"loss": 10.0 / step, "accuracy": 0.4}}
        for step in range(10, 60, 10)
    ]  # fmt: skip
    # As of a training that diverged for a while.
    history[1]["train"] = {"loss": None, "accuracy": 0.5}
    history[-1]["importance_bound"] = {
        "split": "validation", "bound": -80.0, "standard_error": 0.5, "bits_per_dimension": 0.25,
        "elbo": -82.0, "samples": 50, "images": 120,
    }  # fmt: skip
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "starts.json").write_text(json.dumps({"scores": [0.125, 0.0975], "chosen": 1}))
    draw = np.random.default_rng(0)
    tiles = draw.integers(0, 256, (8, 64), np.uint8)
    (folder / FOLDER / ORIGINALS).write_bytes(encode(tiles))
    for step in (0, 10, 50):
        rows = draw.integers(0, 256, (16, 64), np.uint8)
        (folder / FOLDER / f"step-{step:08d}.png").write_bytes(encode(rows))


def label_archive(folder: Path, model: Path, images: Images) -> Path:
    """The output of a bulk job over an archive with hostile names and a broken member."""
    archive = folder / "scans & co.zip"
    members = {
        f"{label.replace('/', '')[:200]}/{place}.png": content
        for place, (content, label) in enumerate(zip(images.files, images.labels, strict=True))
    }
    members["broken/<b>1</b>.png"] = b"\x89PNG\r\n\x1a\nnothing"
    write_zip(archive, members)
    output = folder / "out"
    inputs = InputConfig(paths=(str(archive),), labels=LabelsConfig(source="auto"))
    run_bulk(BulkConfig(model=str(model), output=str(output), input=inputs))
    return output


@pytest.fixture(scope="session")
def labelled_once(tmp_path_factory: pytest.TempPathFactory, model: Path, images: Images) -> Path:
    return label_archive(tmp_path_factory.mktemp("labelled"), model, images)


@pytest.fixture
def labelled(tmp_path: Path, labelled_once: Path) -> Path:
    """A copy of that output, to change; its archive stays as it is."""
    return Path(shutil.copytree(labelled_once, tmp_path / "out"))


def synthetic_rows(count: int, seed: int = 0) -> pa.Table:
    """Rows of a table, as far as the report reads them."""
    draw = np.random.default_rng(seed)
    verdicts = pa.array(draw.choice(["accept", "review"], count, p=[0.9, 0.1]))
    return pa.table(
        {
            "source": pa.array(["a.zip"] * count).dictionary_encode(),
            "member": pa.array([f"{place:06d}.png" for place in range(count)]),
            "given_label": pa.array(draw.choice(["x", "y"], count)).dictionary_encode(),
            "label": pa.array(draw.choice(["x", "y"], count)).dictionary_encode(),
            "probability": pa.array(draw.random(count, np.float32)),
            "outlier_score": pa.array(draw.normal(size=count).astype(np.float32)),
            "verdict": verdicts.dictionary_encode(),
        }
    )
