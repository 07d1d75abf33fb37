"""Declares the AnomalyGate component, which fails on anomalies that ExampleValidator found.

The graph places it before Transform, so that nothing is computed from data that does not conform
to the schema.
"""

from typing import TypedDict

from tfx.types import artifact_utils

from components.anomaly_gate.anomalies import AnomalyError, describe_anomalies, read_anomalies
from components.tfx_api import tfx
from trainer.storage import files

_ANOMALIES_FILE = "SchemaDiff.pb"


class CheckedSplits(TypedDict):
    """Declares the gate's output: the names of the splits that passed, joined by commas."""

    checked_splits: str


@tfx.dsl.components.component
def AnomalyGate(  # noqa: N802 (a component's name is the class that TFX makes of it)
    anomalies: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleAnomalies],
    code_digest: tfx.dsl.components.Parameter[str] = "",
) -> CheckedSplits:
    """Raises an error with a description of the anomalies if ExampleValidator found any.

    Args:
        anomalies: Output of ExampleValidator.
        code_digest: Digest of the code, so that a code change misses the cache.

    Returns:
        `checked_splits`, their names joined by commas.

    Raises:
        AnomalyError: if a split has anomalies; the message names split, feature and reason.
    """
    del code_digest
    splits = artifact_utils.decode_split_names(anomalies.split_names)
    found: list[str] = []
    for split in splits:
        folder = artifact_utils.get_split_uri([anomalies], split)
        content = files.read_bytes(f"{folder}/{_ANOMALIES_FILE}")
        found.extend(f"{split}: {line}" for line in describe_anomalies(read_anomalies(content)))
    if found:
        raise AnomalyError(
            f"the data do not fit the schema: {'; '.join(found)}. "
            "Correct the data, or set schema.path to a schema that allows this."
        )
    return {"checked_splits": ",".join(splits)}
