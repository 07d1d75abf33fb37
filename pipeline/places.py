"""Defines where a pipeline keeps things; the runners fill it in, and `graph.py` reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Places:
    """Storage locations of a pipeline.

    Attributes:
        artifacts: root folder of all artifacts.
        metadata: connection to ML Metadata; None if the orchestrator has its own.
        input_state: exec properties of ImageExampleGen that the orchestrator supplies at run time
            instead of the driver; empty if there is a driver. If they are supplied, our resolver is
            not available either, so the baseline is read from the folder of pushed models.
        history: file in which a last step records the verdict; empty if a metadata store can be
            queried.
        weights: digest of the file of a backbone's weights, of which the cache sees only the path.
        schema: digest of the curated schema, likewise.
    """

    artifacts: str
    metadata: Any = None
    input_state: Mapping[str, Any] = field(default_factory=dict)
    history: str = ""
    weights: str = ""
    schema: str = ""
