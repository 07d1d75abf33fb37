"""What pipeline runs did, read from their metadata store; the runner, reports and `runs` call it.

Imports ML Metadata and no TFX, so that a look at a store takes a second and not fifteen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_metadata import proto
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2

_RUN_CONTEXT = "pipeline_run"
_NODE_CONTEXT = "node"
_OUTPUT_EVENTS = (proto.Event.OUTPUT, proto.Event.DECLARED_OUTPUT)
_INPUT_EVENTS = (proto.Event.INPUT, proto.Event.DECLARED_INPUT, proto.Event.INTERNAL_INPUT)
_DONE, _CACHED, _FAILED, _RUNNING = "done", "cached", "failed", "running"
_STATES = {
    proto.Execution.COMPLETE: _DONE,
    proto.Execution.CACHED: _CACHED,
    proto.Execution.FAILED: _FAILED,
    proto.Execution.CANCELED: _FAILED,
}


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
        state: `done`, `cached`, `failed` or `running` (at work, or stopped without a word).
        started: seconds since 1970-01-01 UTC.
        inputs: folders of the artifacts it read, by input name.
        settings: its exec properties.
        output_ids: ids of the artifacts by output name.
        input_ids: ids of the artifacts it read, by input name.
    """

    name: str
    cached: bool
    failed: bool
    seconds: float = 0.0
    outputs: dict[str, list[str]] = field(default_factory=dict)
    properties: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    state: str = _DONE
    started: float = 0.0
    inputs: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    output_ids: dict[str, list[int]] = field(default_factory=dict)
    input_ids: dict[str, list[int]] = field(default_factory=dict)

    def output(self, name: str) -> str:
        """Returns the folder of the only artifact of an output."""
        (uri,) = self.outputs[name]
        return uri


@dataclass(frozen=True)
class Run:
    """One run of a pipeline.

    Attributes:
        name: its name in the store: the local time of its start.
        started: seconds since 1970-01-01 UTC.
        steps: by name, in the order in which they began.
        notes: what `note_run` attached.
    """

    name: str
    started: float
    steps: dict[str, Step]
    notes: dict[str, Any]


def sqlite_connection(path: Path) -> proto.ConnectionConfig:
    """Returns a connection to an existing SQLite store.

    Raises:
        FileNotFoundError: There is none.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no run has been recorded here", str(path))
    connection = proto.ConnectionConfig()
    connection.sqlite.filename_uri = str(path)
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE
    return connection


def latest_run(connection: proto.ConnectionConfig) -> dict[str, Step]:
    """Reads the latest run of a store.

    Args:
        connection: The store's connection.

    Returns:
        Steps by name; empty before the first run.
    """
    runs = read_runs(connection, latest=1)
    return runs[-1].steps if runs else {}


def read_runs(connection: proto.ConnectionConfig, *, latest: int | None = None) -> list[Run]:
    """Reads the runs of a store.

    Args:
        connection: The store's connection.
        latest: Only so many of the latest.

    Returns:
        Oldest first.
    """
    store = metadata_store.MetadataStore(connection)
    contexts = sorted(
        store.get_contexts_by_type(_RUN_CONTEXT),
        key=lambda context: (context.create_time_since_epoch, context.id),
    )
    if latest is not None:
        contexts = contexts[-latest:]
    return [_read_run(store, context) for context in contexts]


def note_run(connection: proto.ConnectionConfig, notes: Mapping[str, str | float | int]) -> None:
    """Attaches notes to the latest run, such as metrics and why it ran.

    Args:
        connection: The store's connection.
        notes: By name; a note of the same name is replaced.
    """
    store = metadata_store.MetadataStore(connection)
    runs = store.get_contexts_by_type(_RUN_CONTEXT)
    if not runs:
        return
    run = max(runs, key=lambda context: (context.create_time_since_epoch, context.id))
    for name, value in notes.items():
        if isinstance(value, str):
            run.custom_properties[name].string_value = value
        elif isinstance(value, int):
            run.custom_properties[name].int_value = value
        else:
            run.custom_properties[name].double_value = value
    store.put_contexts([run])


def _read_run(store: metadata_store.MetadataStore, context: proto.Context) -> Run:
    executions = sorted(
        store.get_executions_by_context(context.id),
        key=lambda execution: (execution.create_time_since_epoch, execution.id),
    )
    events = store.get_events_by_execution_ids([execution.id for execution in executions])
    artifacts = {
        artifact.id: artifact
        for artifact in store.get_artifacts_by_id(sorted({event.artifact_id for event in events}))
    }
    steps = {}
    for execution in executions:
        own = [event for event in events if event.execution_id == execution.id]
        step = _read_step(_node_name(store, execution), execution, own, artifacts)
        steps[step.name] = step
    return Run(
        name=context.name,
        started=context.create_time_since_epoch / 1000,
        steps=steps,
        notes=_plain_all(context.custom_properties),
    )


def _node_name(store: metadata_store.MetadataStore, execution: proto.Execution) -> str:
    # A node's context is named `<pipeline>.<node>`.
    (name,) = (
        context.name.split(".", 1)[1]
        for context in store.get_contexts_by_execution(execution.id)
        if context.type == _NODE_CONTEXT
    )
    return name


def _read_step(
    name: str,
    execution: proto.Execution,
    events: Iterable[proto.Event],
    artifacts: Mapping[int, proto.Artifact],
) -> Step:
    begun, ended = execution.create_time_since_epoch, execution.last_update_time_since_epoch
    state = _STATES.get(execution.last_known_state, _RUNNING)
    step = Step(
        name=name,
        cached=state == _CACHED,
        failed=state == _FAILED,
        state=state,
        started=begun / 1000,
        seconds=max(0, ended - begun) / 1000,
        settings=_plain_all(execution.custom_properties),
    )
    for event in events:
        artifact = artifacts.get(event.artifact_id)
        if artifact is None or not event.path.steps:
            continue
        key = event.path.steps[0].key
        if event.type in _OUTPUT_EVENTS:
            step.outputs.setdefault(key, []).append(artifact.uri)
            step.output_ids.setdefault(key, []).append(artifact.id)
            step.properties.setdefault(key, []).append(
                {**_plain_all(artifact.properties), **_plain_all(artifact.custom_properties)}
            )
        elif event.type in _INPUT_EVENTS:
            step.inputs.setdefault(key, []).append(artifact.uri)
            step.input_ids.setdefault(key, []).append(artifact.id)
    return step


def _plain_all(values: Mapping[str, metadata_store_pb2.Value]) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("value")) for name, value in values.items()}
