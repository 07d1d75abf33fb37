"""Anomalies protos in words; the gate and the run report use them."""

from tensorflow_metadata.proto.v0 import anomalies_pb2

from trainer.errors import UserError


class AnomalyError(UserError, ValueError):
    """The data do not fit the schema; the message names the features and what is odd."""


def read_anomalies(content: bytes) -> anomalies_pb2.Anomalies:
    """Parses what ExampleValidator wrote for one split."""
    anomalies = anomalies_pb2.Anomalies()
    anomalies.ParseFromString(content)
    return anomalies


def describe_anomalies(anomalies: anomalies_pb2.Anomalies) -> list[str]:
    """Puts anomalies into words.

    Returns:
        One line for each feature with an anomaly, and one for the data set where it has one.
    """
    lines = []
    if anomalies.HasField("dataset_anomaly_info"):
        lines.append(f"data set: {anomalies.dataset_anomaly_info.description}")
    if anomalies.data_missing:
        lines.append("data set: there are no examples")
    for name, info in sorted(anomalies.anomaly_info.items()):
        lines.append(f"{name}: {info.description or info.short_description}")
    return lines
