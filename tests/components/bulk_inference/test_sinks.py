"""Every output format holds the same rows; each is read back with a reader of its own."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.bulk_inference.config import EMBED_COLUMNS
from components.sinks import SINKS
from tests.components.bulk_inference.archives import digits, write_zip
from tests.components.bulk_inference.conftest import ReadTable, RunJob

COLUMNS = ("key", "given_label", "width", "label", "probability", "embedding", "top_k_labels")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "a.zip", digits(20))


@pytest.fixture
def expected(
    archive: Path, tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> list[dict[str, object]]:
    run_job(archive, columns=COLUMNS, output=str(tmp_path / "parquet"))
    rows: list[dict[str, object]] = read_table(tmp_path / "parquet").to_pylist()
    return rows


def shards(tmp_path: Path, suffix: str) -> list[Path]:
    return sorted((tmp_path / "out" / "table").rglob(f"*{suffix}"))


def test_json_lines(
    archive: Path, tmp_path: Path, run_job: RunJob, expected: list[dict[str, object]]
) -> None:
    run_job(archive, columns=COLUMNS, format="jsonl")
    lines = [line for shard in shards(tmp_path, ".jsonl") for line in shard.open()]
    assert [json.loads(line) for line in lines] == expected


def test_csv(
    archive: Path, tmp_path: Path, run_job: RunJob, expected: list[dict[str, object]]
) -> None:
    run_job(archive, columns=COLUMNS, format="csv")
    rows = []
    for shard in shards(tmp_path, ".csv"):
        with shard.open(newline="") as file:
            rows += list(csv.DictReader(file))
    assert len(rows) == 20
    for row, want in zip(rows, expected, strict=True):
        assert (row["key"], row["given_label"], row["label"]) == (want["key"], "", want["label"])
        assert float(row["probability"]) == want["probability"]
        assert json.loads(row["embedding"]) == want["embedding"]
        assert json.loads(row["top_k_labels"]) == want["top_k_labels"]


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path: Path) -> None:
    """Of a model whose decoder sees the hidden layer, every `elbo` is NaN."""
    vectors = [[1.5, math.nan], [math.inf, -2.0], [0.0, 1.0]]
    rows = pa.RecordBatch.from_arrays(
        [
            pa.array(["a", "b", "ü"]),
            pa.array([math.nan, -math.inf, 0.5], pa.float32()),
            pa.array(vectors, pa.list_(pa.field("item", pa.float32()), 2)),
            pa.array([[math.nan], [], None], pa.list_(pa.float32())),
        ],
        names=["key", "elbo", "embedding", "top_k_probabilities"],
    )

    def strict(text: str) -> Any:
        return json.loads(text, parse_constant=lambda constant: pytest.fail(constant))

    def written(kind: str) -> str:
        buffer = io.BytesIO()
        sink = SINKS[kind](buffer, rows.schema)
        sink.write(rows)
        sink.close()
        return buffer.getvalue().decode()

    lines = [strict(line) for line in written("jsonl").splitlines()]
    assert [line["key"] for line in lines] == ["a", "b", "ü"]
    assert [line["elbo"] for line in lines] == [None, None, 0.5]
    assert [line["embedding"] for line in lines] == [[1.5, None], [None, -2.0], [0.0, 1.0]]
    assert [line["top_k_probabilities"] for line in lines] == [[None], [], None]
    fields = list(csv.DictReader(io.StringIO(written("csv"))))
    assert [strict(row["embedding"]) for row in fields] == [line["embedding"] for line in lines]
    assert [row["top_k_probabilities"] for row in fields] == ["[null]", "[]", ""]


def test_tfrecord(
    archive: Path, tmp_path: Path, run_job: RunJob, expected: list[dict[str, object]]
) -> None:
    import tensorflow as tf

    run_job(archive, columns=COLUMNS, format="tfrecord")
    records = tf.data.TFRecordDataset(list(map(str, shards(tmp_path, ".tfrecord"))))
    examples = [tf.train.Example.FromString(record.numpy()).features.feature for record in records]
    assert len(examples) == 20
    for example, want in zip(examples, expected, strict=True):
        assert example["key"].bytes_list.value[0].decode() == want["key"]
        assert list(example["embedding"].float_list.value) == want["embedding"]
        assert list(example["width"].int64_list.value) == [8]
        assert "given_label" not in example


def test_npy_with_an_index_of_keys(
    archive: Path, tmp_path: Path, run_job: RunJob, expected: list[dict[str, object]]
) -> None:
    run_job(archive, columns=EMBED_COLUMNS, format="npy")
    arrays = [np.load(shard) for shard in shards(tmp_path, ".npy")]
    assert [array.shape for array in arrays] == [(16, 4), (4, 4)]
    assert np.concatenate(arrays).tolist() == [row["embedding"] for row in expected]
    keys = []
    for shard in shards(tmp_path, ".npy"):
        index = pq.read_table(shard.with_suffix(".index.parquet"))
        assert "embedding" not in index.schema.names
        keys += index["key"].to_pylist()
    assert keys == [row["key"] for row in expected]


def test_pixels_are_in_no_column(archive: Path, tmp_path: Path, run_job: RunJob) -> None:
    run_job(archive)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet"))
    assert b"\x89PNG" not in written
