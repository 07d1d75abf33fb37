"""Reads pipeline runs from the ML Metadata store of a root folder and attaches notes to them.

It imports ML Metadata but not TFX, so that `vaeline runs` takes one second instead of fifteen.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from ml_metadata import errors, proto
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2

from pipeline.runs.location import present_uri, recorded_root, replace_root
from pipeline.runs.metadata_file import MetadataError, check_metadata, is_writable
from pipeline.runs.run import Run
from pipeline.runs.step import CACHED, DONE, FAILED, RUNNING, Step

METADATA_FILE: Final = "metadata.sqlite"
"""Name of the store's file, in the root of the runs."""

_PIPELINE_CONTEXT = "pipeline"
_RUN_CONTEXT = "pipeline_run"
_NODE_CONTEXT = "node"
_OUTPUT_EVENTS = (proto.Event.OUTPUT, proto.Event.DECLARED_OUTPUT)
_INPUT_EVENTS = (proto.Event.INPUT, proto.Event.DECLARED_INPUT, proto.Event.INTERNAL_INPUT)
_STATES = {
    proto.Execution.COMPLETE: DONE,
    proto.Execution.CACHED: CACHED,
    proto.Execution.FAILED: FAILED,
    proto.Execution.CANCELED: FAILED,
}


def open_metadata(root: Path) -> metadata_store.MetadataStore:
    """Opens the existing store of a root folder, which may be read-only.

    Raises:
        FileNotFoundError: There is no store.
        MetadataError: The store cannot be read.
    """
    path = root / METADATA_FILE
    if not path.exists():
        raise FileNotFoundError(2, "no run has been recorded here", str(path))
    check_metadata(path)
    modes = metadata_store_pb2.SqliteMetadataSourceConfig
    # Readers also open it for writing if possible: SQLite rolls back the transaction of a killed
    # writer when the store is next opened, and cannot open such a store read-only.
    connection = proto.ConnectionConfig()
    connection.sqlite.filename_uri = str(path)
    connection.sqlite.connection_mode = modes.READWRITE if is_writable(path) else modes.READONLY
    try:
        return metadata_store.MetadataStore(connection)
    except (errors.StatusError, RuntimeError) as error:
        # Such as a schema of a later version.
        reason = " ".join(str(error).split())
        raise MetadataError(f"{path}: ML Metadata cannot open it: {reason}") from error


def read_runs(root: Path, *, latest: int | None = None, is_held: bool = False) -> list[Run]:
    """Reads the runs of a root folder.

    Recorded paths are mapped to where the root is now.

    Args:
        root: Folder of the runs.
        latest: Number of latest runs to read; None reads all.
        is_held: Whether a process holds the root, so that the latest run may be active.

    Returns:
        The runs, oldest first.

    Raises:
        FileNotFoundError: The root has no store.
        MetadataError: The store cannot be read.
    """
    root = root.resolve()
    store = open_metadata(root)
    contexts = _run_contexts(store)
    if latest is not None:
        contexts = contexts[-latest:]
    return [
        _read_run(store, context, root=root, is_active=is_held and context is contexts[-1])
        for context in contexts
    ]


def latest_run(root: Path) -> Run:
    """Reads the latest run of a root folder.

    Raises:
        FileNotFoundError: No run has been recorded.
    """
    runs = read_runs(root, latest=1)
    if not runs:
        raise FileNotFoundError(2, "no run has been recorded here", str(root / METADATA_FILE))
    return runs[-1]


def note_latest_run(root: Path, notes: Mapping[str, str | float | int]) -> None:
    """Attaches notes to the latest run, such as its metrics and the reason for its start.

    Args:
        root: Folder of the runs.
        notes: Notes by name; a note of the same name is replaced.

    Raises:
        FileNotFoundError: The root has no store.
    """
    store = open_metadata(root)
    contexts = _run_contexts(store)
    if not contexts:
        return
    run = contexts[-1]
    for name, value in notes.items():
        if isinstance(value, str):
            run.custom_properties[name].string_value = value
        elif isinstance(value, int):
            run.custom_properties[name].int_value = value
        else:
            run.custom_properties[name].double_value = value
    store.put_contexts([run])


def pipeline_names(root: Path) -> list[str]:
    """Returns the names of the pipelines whose runs a root holds, in alphabetical order.

    Raises:
        FileNotFoundError: The root has no store.
        MetadataError: The store cannot be read.
    """
    contexts = open_metadata(root).get_contexts_by_type(_PIPELINE_CONTEXT)
    return sorted(context.name for context in contexts)


def _run_contexts(store: metadata_store.MetadataStore) -> list[proto.Context]:
    """Lists the contexts of runs, oldest first."""
    return sorted(
        store.get_contexts_by_type(_RUN_CONTEXT),
        # Not by time, because a clock may be set back.
        key=lambda context: context.id,
    )


def _read_run(
    store: metadata_store.MetadataStore, context: proto.Context, *, root: Path, is_active: bool
) -> Run:
    executions = sorted(
        store.get_executions_by_context(context.id),
        key=lambda execution: execution.id,
    )
    events = store.get_events_by_execution_ids([execution.id for execution in executions])
    origins = _origin_seconds(store, executions, events)
    found = store.get_artifacts_by_id(sorted({event.artifact_id for event in events}))
    former = {recorded_root(artifact.uri) or "" for artifact in found} - {str(root)}
    artifacts = {artifact.id: _in_place(artifact, root) for artifact in found}
    steps = {}
    for execution in executions:
        own = [event for event in events if event.execution_id == execution.id]
        step = _read_step(
            _node_name(store, execution), execution, own, artifacts, origins.get(execution.id)
        )
        for name, value in step.settings.items():
            for path in former if isinstance(value, str) else ():
                step.settings[name] = replace_root(step.settings[name], path, str(root))
        steps[step.name] = step
    return Run(
        name=context.name,
        started=context.create_time_since_epoch / 1000,
        root=root,
        steps=steps,
        notes=_plain_all(context.custom_properties),
        is_active=is_active,
    )


def _origin_seconds(
    store: metadata_store.MetadataStore,
    executions: Iterable[proto.Execution],
    events: Iterable[proto.Event],
) -> dict[int, float]:
    """Looks up how long the outputs of cached executions took, by the ids of these executions."""
    cached = {each.id for each in executions if each.last_known_state == proto.Execution.CACHED}
    outputs = {
        event.artifact_id: event.execution_id
        for event in events
        if event.execution_id in cached and event.type in _OUTPUT_EVENTS
    }
    if not outputs:
        return {}
    made = [
        event
        for event in store.get_events_by_artifact_ids(list(outputs))
        if event.type in _OUTPUT_EVENTS
    ]
    makers = {
        each.id: each
        for each in store.get_executions_by_id(sorted({event.execution_id for event in made}))
        if each.last_known_state == proto.Execution.COMPLETE
    }
    return {
        outputs[event.artifact_id]: _seconds(makers[event.execution_id])
        for event in made
        if event.execution_id in makers
    }


def _seconds(execution: proto.Execution) -> float:
    """Returns the wall time of an execution."""
    spent = execution.last_update_time_since_epoch - execution.create_time_since_epoch
    return max(0, spent) / 1000


def _in_place(artifact: proto.Artifact, root: Path) -> proto.Artifact:
    """Maps the recorded paths of an artifact to the root as it is now."""
    former = recorded_root(artifact.uri)
    if former not in (None, str(root)):
        artifact.uri = present_uri(artifact.uri, root)
        for value in [*artifact.properties.values(), *artifact.custom_properties.values()]:
            if value.string_value:
                value.string_value = replace_root(value.string_value, former or "", str(root))
    return artifact


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
    origin_seconds: float | None,
) -> Step:
    step = Step(
        name=name,
        state=_STATES.get(execution.last_known_state, RUNNING),
        started=execution.create_time_since_epoch / 1000,
        seconds=_seconds(execution),
        settings=_plain_all(execution.custom_properties),
        origin_seconds=origin_seconds,
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
