"""What a pipeline run did, read from its metadata store; the runner and the reports call it."""

from dataclasses import dataclass, field
from typing import Any

from ml_metadata import proto
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2

_RUN_CONTEXT = "pipeline_run"
_NODE_CONTEXT = "node"
_OUTPUT_EVENTS = (proto.Event.OUTPUT, proto.Event.DECLARED_OUTPUT)


@dataclass(frozen=True)
class Step:
    """One node of a run.

    Attributes:
        name: the node's id in the DAG.
        cached: its outputs were taken from an earlier run.
        failed: it ended with an error.
        seconds: wall time, as the metadata store saw it.
        outputs: folders of the artifacts by output name.
        properties: custom properties of the artifacts by output name.
    """

    name: str
    cached: bool
    failed: bool
    seconds: float = 0.0
    outputs: dict[str, list[str]] = field(default_factory=dict)
    properties: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def output(self, name: str) -> str:
        """Returns the folder of the only artifact of an output."""
        (uri,) = self.outputs[name]
        return uri


def latest_run(connection: proto.ConnectionConfig) -> dict[str, Step]:
    """Reads the latest run of a store.

    Args:
        connection: The store's connection.

    Returns:
        Steps by name; empty before the first run.
    """
    store = metadata_store.MetadataStore(connection)
    runs = store.get_contexts_by_type(_RUN_CONTEXT)
    if not runs:
        return {}
    run = max(runs, key=lambda context: context.create_time_since_epoch)
    steps = {}
    for execution in store.get_executions_by_context(run.id):
        step = _read_step(store, execution)
        steps[step.name] = step
    return steps


def _read_step(store: metadata_store.MetadataStore, execution: proto.Execution) -> Step:
    # A node's context is named `<pipeline>.<node>`.
    (name,) = (
        context.name.split(".", 1)[1]
        for context in store.get_contexts_by_execution(execution.id)
        if context.type == _NODE_CONTEXT
    )
    step = Step(
        name=name,
        cached=execution.last_known_state == proto.Execution.CACHED,
        failed=execution.last_known_state == proto.Execution.FAILED,
        seconds=(execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000,
    )
    events = [
        event
        for event in store.get_events_by_execution_ids([execution.id])
        if event.type in _OUTPUT_EVENTS
    ]
    artifacts = {
        artifact.id: artifact
        for artifact in store.get_artifacts_by_id([event.artifact_id for event in events])
    }
    for event in events:
        artifact = artifacts[event.artifact_id]
        output = event.path.steps[0].key
        step.outputs.setdefault(output, []).append(artifact.uri)
        step.properties.setdefault(output, []).append(
            {key: _plain(value) for key, value in artifact.custom_properties.items()}
        )
    return step


def _plain(value: metadata_store_pb2.Value) -> Any:
    return getattr(value, value.WhichOneof("value"))
