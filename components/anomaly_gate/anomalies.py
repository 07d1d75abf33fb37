"""Describes Anomalies protos in words, for the gate and the run report."""

from tensorflow_metadata.proto.v0 import anomalies_pb2

from trainer.errors import UserError


class AnomalyError(UserError, ValueError):
    """Reports data that does not conform to the schema; the message names feature and anomaly."""


def read_anomalies(content: bytes) -> anomalies_pb2.Anomalies:
    """Parses the anomalies that ExampleValidator wrote for one split."""
    anomalies = anomalies_pb2.Anomalies()
    anomalies.ParseFromString(content)
    return anomalies


def describe_anomalies(anomalies: anomalies_pb2.Anomalies) -> list[str]:
    """Describes anomalies in words.

    Returns:
        One line per feature with an anomaly, and one for the dataset if it has an anomaly.
    """
    lines = []
    if anomalies.HasField("dataset_anomaly_info"):
        lines.append(f"data set: {anomalies.dataset_anomaly_info.description}")
    if anomalies.data_missing:
        lines.append("data set: there are no examples")
    for name, info in sorted(anomalies.anomaly_info.items()):
        # TFDV ends each sentence with a full stop and a space.
        lines.append(f"{name}: {(info.description or info.short_description).rstrip('. ')}")
    return lines
