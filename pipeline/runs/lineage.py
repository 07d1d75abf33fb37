"""Traces a pushed model to its steps, archives and code, for `vaeline runs lineage`."""

import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.runs.run import Run
from pipeline.runs.step import Step
from pipeline.runs.store import METADATA_FILE
from trainer.errors import UserError
from trainer.model_card import EXPORTED_CARD, CardError, ModelCard, parse_card
from trainer.storage import files
from trainer.storage.failures import StorageError

_PUSH_RECORD = "assets.extra/push.json"


class LineageError(UserError, ValueError):
    """Reports that a model's origin is not recorded; the message names the searched location."""


@dataclass(frozen=True)
class Origin:
    """The origin of a model.

    Attributes:
        model: folder of the pushed version.
        pushed_by: run that pushed it.
        trained_by: run that trained it; a different one if the model came from the cache.
        archives: paths that the images came from.
        span: latest span among them.
        fingerprint: digest of their content.
        images: how many images were ingested.
        code: digest of the code that trained.
        digests: digests of weights, transform, calibration and configuration from the model card.
        metrics: metrics that were recorded when it was pushed.
        steps: the steps that produced it, last first: run, step, outputs.
        started_from: folder of the model whose weights it started from; empty without one.
    """

    model: str
    pushed_by: str
    trained_by: str
    archives: list[str]
    span: int | None
    fingerprint: str
    images: int | None
    code: str
    digests: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    started_from: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the origin as JSON-compatible values."""
        return asdict(self)


def trace(runs: Sequence[Run], model: str) -> Origin:
    """Traces a pushed version back to its archives.

    Args:
        runs: All runs of the store, oldest first.
        model: Folder of the pushed version, local or in a store, or of the model's artifact.

    Returns:
        Its origin.

    Raises:
        LineageError: No run of this store pushed the model.
    """
    producers = _producers(runs)
    record = _read_json(posixpath.join(model, _PUSH_RECORD))
    # A rollback publishes the files of an earlier version as a new one.
    origin = str(record.get("copy_of") or posixpath.basename(model.rstrip("/")))
    pushed = _pushing_step(runs, posixpath.join(posixpath.dirname(model.rstrip("/")), origin))
    if pushed is None:
        raise LineageError(f"{model}: no run of this root pushed it; name the root with --root")
    run, step = pushed
    steps = list(_upstream(step, producers))
    behind: dict[str, tuple[Run, Step]] = {}
    for owner, found in steps:
        # Keep the nearest: the models that it started from or was compared with have their own.
        behind.setdefault(found.name, (owner, found))
    ingest = next((found for _, found in behind.values() if "examples" in found.outputs), None)
    trained = next(
        ((owner, found) for owner, found in behind.values() if "model" in found.outputs), None
    )
    images = ingest.ingested if ingest else None
    return Origin(
        model=model,
        pushed_by=run.name,
        trained_by=trained[0].name if trained else "",
        archives=list(images.archives) if images else [],
        span=images.span if images else None,
        fingerprint=images.fingerprint if images else "",
        images=images.count if images else None,
        code=_code_digest(trained[1]) if trained else "",
        digests=_read_card(model).digests.as_dict(),
        metrics=dict(record.get("metrics") or {}),
        steps=[
            {"run": owner.name, "step": found.name, "outputs": found.outputs}
            for owner, found in [(run, step), *steps]
        ],
        started_from="".join(trained[1].inputs.get("base_model", [])) if trained else "",
    )


def find_root(model: str) -> Path:
    """Returns the closest folder above a model that has a metadata store.

    Raises:
        LineageError: There is no such folder.
    """
    for folder in () if files.is_remote(model) else Path(model).resolve().parents:
        if (folder / METADATA_FILE).is_file():
            return folder
    raise LineageError(f"{model}: no {METADATA_FILE} above it; name the root with --root")


def _producers(runs: Sequence[Run]) -> dict[int, tuple[Run, Step]]:
    """Maps an artifact to the step that produced it; a cached step produced nothing."""
    producers: dict[int, tuple[Run, Step]] = {}
    for run in runs:
        for step in run.steps.values():
            if step.cached:
                continue
            for ids in step.output_ids.values():
                for artifact in ids:
                    producers.setdefault(artifact, (run, step))
    return producers


def _pushing_step(runs: Sequence[Run], model: str) -> tuple[Run, Step] | None:
    wanted = _resolved(model)
    for run in runs:
        for step in run.steps.values():
            if step.cached:
                continue
            places = [*step.pushed, *step.outputs.get("model", [])]
            if any(_resolved(place) == wanted for place in places):
                return run, step
    return None


def _resolved(place: str) -> str:
    return place.rstrip("/") if files.is_remote(place) else str(Path(place).resolve())


def _upstream(step: Step, producers: dict[int, tuple[Run, Step]]) -> Iterator[tuple[Run, Step]]:
    """Yields every step upstream of one, nearest first, each once."""
    seen: set[tuple[str, str]] = set()
    waiting = [step]
    while waiting:
        current = waiting.pop(0)
        for ids in current.input_ids.values():
            for artifact in ids:
                found = producers.get(artifact)
                if found is None or (found[0].name, found[1].name) in seen:
                    continue
                seen.add((found[0].name, found[1].name))
                yield found
                waiting.append(found[1])


def _code_digest(step: Step) -> str:
    try:
        return str(json.loads(step.settings["custom_config"])["code_digest"])
    except (KeyError, ValueError, TypeError):
        return str(step.settings.get("code_digest", ""))


def _read_card(model: str) -> ModelCard:
    try:
        return parse_card(files.read_bytes(posixpath.join(model, EXPORTED_CARD)))
    except (StorageError, CardError):
        return ModelCard()


def _read_json(path: str) -> dict[str, Any]:
    try:
        document = json.loads(files.read_bytes(path))
    except ValueError:  # A StorageError is one, too.
        return {}
    return document if isinstance(document, dict) else {}
