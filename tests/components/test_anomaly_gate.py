"""Anomalies in words, and the gate that acts on them."""

from pathlib import Path

import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.types import standard_artifacts

from components.anomaly_gate.anomalies import AnomalyError, describe_anomalies, read_anomalies
from components.anomaly_gate.component import AnomalyGate


def found_anomalies() -> anomalies_pb2.Anomalies:
    """What TFDV itself says of a class that the schema does not know."""

    schema = tfdv.infer_schema(
        tfdv.generate_statistics_from_dataframe(pd.DataFrame({"label": ["a", "b"] * 50}))
    )
    other = tfdv.generate_statistics_from_dataframe(pd.DataFrame({"label": ["a", "zebra"] * 50}))
    return tfdv.validate_statistics(other, schema)


def artifact(
    folder: Path, anomalies: anomalies_pb2.Anomalies
) -> standard_artifacts.ExampleAnomalies:
    (folder / "Split-test").mkdir(parents=True)
    (folder / "Split-test" / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())
    made = standard_artifacts.ExampleAnomalies()
    made.uri = str(folder)
    made.split_names = '["test"]'
    return made


def test_a_new_class_is_put_into_words() -> None:
    (line,) = describe_anomalies(read_anomalies(found_anomalies().SerializeToString()))
    assert line.startswith("label: ")
    assert "zebra" in line


def test_the_gate_stops_the_run_with_split_feature_and_reason(tmp_path: Path) -> None:
    function = AnomalyGate.EXECUTOR_SPEC.executor_class._FUNCTION
    with pytest.raises(AnomalyError, match=r"test: label: .*zebra.*schema.path"):
        function(anomalies=artifact(tmp_path, found_anomalies()))


def test_the_gate_lets_clean_data_pass(tmp_path: Path) -> None:
    function = AnomalyGate.EXECUTOR_SPEC.executor_class._FUNCTION
    clean = artifact(tmp_path, anomalies_pb2.Anomalies())
    assert function(anomalies=clean) == {"checked_splits": "test"}


def test_missing_data_is_an_anomaly() -> None:
    assert describe_anomalies(anomalies_pb2.Anomalies(data_missing=True)) == [
        "data set: there are no examples"
    ]
