"""The schema of a small data set: only the label has a domain."""

import functools
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import tensorflow_data_validation as tfdv

from components.image_example_gen.ingest import ingest
from components.image_schema_gen.component import infer_image_schema
from components.image_schema_gen.curated_schema import read_schema, schema_digest
from components.image_sources.config import InputConfig
from tests import archives
from trainer.data import features
from trainer.errors import InputError


@functools.cache
def statistics(folder: Path, split: str) -> Any:
    """TFDV's statistics of one split of an ingest, as StatisticsGen makes them."""
    from tfx_bsl.public import tfxio

    options = tfdv.StatsOptions(experimental_use_sketch_based_topk_uniques=True)
    pattern = f"{folder}/Split-{split}/*.tfrecord"
    target = str(folder / f"{split}.pb")
    source = tfxio.TFExampleRecord(file_pattern=pattern, telemetry_descriptors=["tests"])
    with beam.Pipeline() as pipeline:
        _ = (
            pipeline
            | source.BeamSource()
            | tfdv.GenerateStatistics(options)
            | tfdv.WriteStatisticsToBinaryFile(target)
        )
    return tfdv.load_stats_binary(target)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 JPEGs of two classes in train; in test a PNG and a JPEG of four channels."""
    root = tmp_path_factory.mktemp("small")
    files = {f"train/{'cat' if i % 2 else 'dog'}/{i}.jpg": archives.jpeg(i) for i in range(30)}
    files |= {"test/cat/1.png": archives.png(1), "test/dog/2.jpg": archives.cmyk_jpeg(2)}
    path = archives.write(root / "a.zip", files)
    config = InputConfig.model_validate(
        {"paths": str(path), "splits": {"validation": 0, "calibration": 0}}
    )
    ingest(config, str(root / "out"), beam.Pipeline, processes=0)
    return root / "out"


def test_new_names_and_formats_are_no_anomalies(folder: Path) -> None:
    schema = infer_image_schema(statistics(folder, "train"))
    assert [domain.name for domain in schema.string_domain] == [features.LABEL_TEXT]
    assert list(schema.string_domain[0].value) == ["cat", "dog"]
    anomalies = tfdv.validate_statistics(statistics(folder, "test"), schema)
    assert dict(anomalies.anomaly_info) == {}


def test_what_is_missing_or_unknown_is_an_anomaly(folder: Path) -> None:
    schema = infer_image_schema(statistics(folder, "train"))
    names = {feature.name for feature in schema.feature}
    assert names >= {features.ENCODED, features.LABEL_TEXT, features.FORMAT, features.SHA256}
    schema.string_domain[0].value[:] = ["dog"]
    anomalies = tfdv.validate_statistics(statistics(folder, "test"), schema)
    assert list(anomalies.anomaly_info) == [features.LABEL_TEXT]
    for feature in schema.feature:
        if feature.name == features.WIDTH:
            feature.name = "image/depth"
    anomalies = tfdv.validate_statistics(statistics(folder, "test"), schema)
    assert "image/depth" in anomalies.anomaly_info


def test_a_curated_schema_is_a_file_or_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "schema.pbtxt"
    path.write_text('feature { name: "image/encoded" type: BYTES }')
    assert read_schema(str(path)) == read_schema(str(tmp_path)) == path.read_bytes()
    before = schema_digest(str(tmp_path))
    path.write_text("")
    assert len({before, schema_digest(str(tmp_path)), schema_digest(None)}) == 3


@pytest.mark.parametrize("content", [b"name: flowers", b"\xff\xfe", None])
def test_what_is_no_schema_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "s.pbtxt").write_bytes(content)
    message = r"s\.pbtxt: no (schema of TFMD: .*; give a schema.pbtxt|such file)"
    with pytest.raises(InputError, match=message):
        read_schema(str(tmp_path / "s.pbtxt"))
