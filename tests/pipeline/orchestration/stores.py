"""Metadata stores as TFX's local runner leaves them, written in milliseconds and without TFX."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_metadata import proto
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2

from pipeline.runs.store import METADATA_FILE

DONE, CACHED, FAILED, RUNNING = (
    proto.Execution.COMPLETE,
    proto.Execution.CACHED,
    proto.Execution.FAILED,
    proto.Execution.RUNNING,
)


@dataclass
class Store:
    """A store below a root folder, filled run by run."""

    root: Path
    artifacts: dict[str, int] = field(default_factory=dict)
    counter: int = 0

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        config = proto.ConnectionConfig()
        config.sqlite.filename_uri = str(self.root / METADATA_FILE)
        config.sqlite.connection_mode = (
            metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        )
        self.connection = config
        self.store = metadata_store.MetadataStore(config)
        self.types = {
            name: self.store.put_context_type(proto.ContextType(name=name))
            for name in ("pipeline", "pipeline_run", "node")
        }
        self.step_type = self.store.put_execution_type(proto.ExecutionType(name="step"))
        self.contexts: dict[tuple[str, str], proto.Context] = {}

    def artifact(self, kind: str, **properties: Any) -> int:
        """Makes an artifact with a folder and a file in it."""
        self.counter += 1
        folder = self.root / "artifacts" / kind / str(self.counter)
        folder.mkdir(parents=True)
        (folder / "content").write_bytes(b"x" * 1000)
        artifact = proto.Artifact(
            type_id=self.store.put_artifact_type(proto.ArtifactType(name=kind)),
            uri=str(folder),
            state=proto.Artifact.LIVE,
        )
        _set(artifact.custom_properties, properties)
        (number,) = self.store.put_artifacts([artifact])
        return number

    def step(
        self,
        run: str,
        name: str,
        *,
        reads: dict[str, int] | None = None,
        writes: dict[str, int] | None = None,
        state: Any = DONE,
        **settings: Any,
    ) -> None:
        """Adds a step to a run."""
        execution = proto.Execution(type_id=self.step_type, last_known_state=state)
        _set(execution.custom_properties, settings)
        events = [
            (artifact, event)
            for kind, artifacts in ((proto.Event.INPUT, reads), (proto.Event.OUTPUT, writes))
            for event, artifact in (
                (_event(kind, key), self._artifact(number))
                for key, number in (artifacts or {}).items()
            )
        ]
        kinds = (("pipeline", "digits"), ("pipeline_run", run), ("node", f"digits.{name}"))
        self.store.put_execution(execution, events, [self._context(*kind) for kind in kinds])
        for kind in kinds:
            self.contexts[kind] = self.store.get_context_by_type_and_name(*kind)

    def training_run(
        self,
        run: str,
        *,
        span: int = 0,
        fingerprint: str = "print",
        blessed: bool = True,
        pushed: str = "",
        archives: tuple[str, ...] = ("a.zip",),
    ) -> dict[str, int]:
        """Adds a whole run; returns its artifacts by name."""
        made = {
            "examples": self.artifact(
                "Examples", span=span, input_fingerprint=fingerprint, images=100
            ),
            "model": self.artifact("Model"),
            "model_run": self.artifact("ModelRun"),
        }
        made["blessing"] = self.artifact(
            "ModelBlessing", blessed=int(blessed), current_model_id=made["model"]
        )
        made["pushed_model"] = self.artifact("PushedModel", pushed_destination=pushed)
        self.step(
            run, "ImageExampleGen", writes={"examples": made["examples"]},
            input_config=json.dumps({"paths": archives}), code_digest="c0de",
        )  # fmt: skip
        self.step(
            run, "Trainer", reads={"examples": made["examples"]},
            writes={"model": made["model"], "model_run": made["model_run"]},
            custom_config=json.dumps({"code_digest": "c0de"}),
        )  # fmt: skip
        self.step(
            run, "Evaluator", reads={"model": made["model"], "examples": made["examples"]},
            writes={"blessing": made["blessing"]},
        )  # fmt: skip
        self.step(
            run, "Pusher", reads={"model": made["model"], "model_blessing": made["blessing"]},
            writes={"pushed_model": made["pushed_model"]},
        )  # fmt: skip
        return made

    def uri(self, number: int) -> Path:
        """Returns an artifact's folder."""
        return Path(self._artifact(number).uri)

    def _artifact(self, number: int) -> proto.Artifact:
        (artifact,) = self.store.get_artifacts_by_id([number])
        return artifact

    def _context(self, kind: str, name: str) -> proto.Context:
        known = self.contexts.get((kind, name))
        return known or proto.Context(type_id=self.types[kind], name=name)


def _event(kind: Any, key: str) -> proto.Event:
    event = proto.Event(type=kind)
    event.path.steps.add(key=key)
    event.path.steps.add(index=0)
    return event


def _set(target: Any, properties: dict[str, Any]) -> None:
    for name, value in properties.items():
        if isinstance(value, str):
            target[name].string_value = value
        else:
            target[name].int_value = value
