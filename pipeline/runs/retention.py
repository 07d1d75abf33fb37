"""Removes artifacts that no blessed or pushed model needs, leftovers and logs, for `vaeline gc`.

Leftovers are what killed steps wrote and trainings that were never finished; no record names them.
The artifacts stay on record; their state in the metadata store tells whether their files exist. An
artifact is marked before its files are removed and set to deleted afterwards. The next removal can
therefore complete an interrupted one, and TFX's cache, which uses live artifacts only, never finds
a partly removed folder.
"""

import contextlib
import math
import os
import posixpath
import shutil
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ml_metadata import proto

from components.model_push.management import open_store
from pipeline.log_files import LOGS, log_time
from pipeline.runs.location import present_uri
from pipeline.runs.repair import survey_root
from pipeline.runs.run import ARTIFACTS, FINISHED, Run
from pipeline.runs.store import open_metadata, read_runs
from pipeline.training_folder import TRAININGS
from trainer.storage import files

_EARLIER_MODELS: Final = ("base_model", "baseline_model")
"""Inputs of steps that are models of earlier runs."""
_GONE = (proto.Artifact.DELETED, proto.Artifact.ABANDONED)
LEFTOVER: Final = "leftover"
"""Kind of a folder that a killed step or an unfinished training left."""
LOG: Final = "log"
"""Kind of a file in which a command wrote what it said."""


@dataclass(frozen=True)
class Removal:
    """One artifact, leftover or log that may be removed.

    Attributes:
        artifact: its id in the store; None for a leftover or a log, which have no record.
        kind: its type, such as `Model`, or `LEFTOVER` or `LOG`.
        path: its folder or file.
        size: size on disk in bytes.
    """

    artifact: int | None
    kind: str
    path: str
    size: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the removal as JSON-compatible values."""
        return asdict(self)


def plan(
    root: Path,
    *,
    keep_runs: int,
    with_images: bool,
    with_pruned: bool = False,
    is_held: bool = False,
) -> list[Removal]:
    """Finds the artifacts, leftovers and logs that may be removed.

    The artifacts of the latest runs are kept, whatever their state, and so is every blessed or
    pushed model with all artifacts that produced it. Artifacts outside the root's folder of
    artifacts are never removed. An unfinished training stays as long as one of the latest runs may
    resume it, and so do the logs since the first of these runs.

    Args:
        root: Folder of the runs.
        keep_runs: Number of latest runs to keep complete.
        with_images: Whether to remove the images of earlier runs even if a model was trained on
            them. They can be read again from their archives, but steps that need them would rerun.
        with_pruned: Whether to remove blessed models that no pushed version holds any more, and
            what they alone were made from, except for the last blessed one and for models that a
            kept one started from or was compared with. Without any version all are kept.
        is_held: Whether another process holds the root. The outputs of its step have no record yet
            and are no leftovers.

    Returns:
        The artifacts, by id, then the leftovers and the logs, by path.

    Raises:
        FileNotFoundError: The root has no metadata store.
    """
    root = root.resolve()
    artifacts = root / ARTIFACTS
    runs = read_runs(root)
    pruned = _pruned(runs) if with_pruned else set()
    kept = _needed(runs, keep_runs, with_images, pruned)
    removals = []
    for artifact in open_metadata(root).get_artifacts():
        path = _place(artifact.uri, root)
        if artifact.id in kept or artifact.state in _GONE:
            continue
        if not path.resolve().is_relative_to(artifacts.resolve()) or path == artifacts:
            continue
        removals.append(Removal(artifact.id, artifact.type, str(path), _size(path)))
    removals.sort(key=lambda removal: removal.artifact or 0)
    begin = min((run.started for run in runs[-keep_runs:] if keep_runs), default=math.inf)
    leftovers = [] if is_held else [*survey_root(root).leftovers, *_trainings(root, begin)]
    removals += [Removal(None, LEFTOVER, str(path), _size(path)) for path in leftovers]
    return removals + [Removal(None, LOG, str(path), _size(path)) for path in _logs(root, begin)]


def remove_artifacts(root: Path, removals: Sequence[Removal]) -> None:
    """Removes files and marks their artifacts as deleted.

    Args:
        root: Folder of the runs.
        removals: The result of `plan`; the caller must hold the root's lock since then.

    Raises:
        OSError: A file cannot be removed; completed removals are recorded.
    """
    root = root.resolve()
    store = open_metadata(root)
    artifacts = store.get_artifacts_by_id([r.artifact for r in removals if r.artifact is not None])
    _mark(store, artifacts, proto.Artifact.MARKED_FOR_DELETION)
    for artifact in artifacts:
        path = _place(artifact.uri, root)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        _mark(store, [artifact], proto.Artifact.DELETED)
    for removal in removals:
        if removal.artifact is None:
            files.remove(removal.path)


def _trainings(root: Path, begin: float) -> list[Path]:
    """Lists the folders of unfinished trainings in which nothing was written since `begin`."""
    folders = sorted((root / ARTIFACTS / TRAININGS).glob("*/"))
    return [folder for folder in folders if _last_change(folder) < begin]


def _logs(root: Path, begin: float) -> list[Path]:
    """Lists the logs before the last one that was begun before `begin`.

    That one is the log of the run that began then: a command opens its log first.
    """
    begun = [
        path
        for path in sorted((root / LOGS).glob("*.log"))
        if (seconds := log_time(path)) is not None and seconds < begin
    ]
    return begun[:-1]


def _last_change(folder: Path) -> float:
    """Returns when something in a folder was last written, seconds since 1970-01-01 UTC."""
    return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])


def _pruned(runs: Sequence[Run]) -> set[str]:
    """Returns the names of runs whose pushed version was removed, without the last blessed run."""
    pushing = [run for run in runs if run.blessed and run.pushed]
    blessed = [run.name for run in runs if run.blessed]
    held: dict[str, set[int]] = {}
    for folder in {posixpath.dirname(run.pushed) for run in pushing}:
        versions = open_store(folder).complete()
        held[folder] = {number for each in versions for number in (each.number, each.origin)}
    return {
        run.name
        for run in pushing
        if (there := held[posixpath.dirname(run.pushed)])
        and int(posixpath.basename(run.pushed)) not in there
        and run.name not in blessed[-1:]
    }


def _needed(
    runs: Sequence[Run], keep_runs: int, with_images: bool, pruned: Collection[str]
) -> set[int]:
    inputs_of: dict[int, set[int]] = {}
    models_of: dict[int, set[int]] = {}
    kept: set[int] = set()
    images: set[int] = set()
    for number, run in enumerate(runs):
        is_recent = number >= len(runs) - keep_runs
        for step in run.steps.values():
            written = {artifact for ids in step.output_ids.values() for artifact in ids}
            models = {n for name in _EARLIER_MODELS for n in step.input_ids.get(name, [])}
            read = {artifact for ids in step.input_ids.values() for artifact in ids}
            images.update(step.output_ids.get("examples", []))
            for artifact in written:
                inputs_of.setdefault(artifact, set()).update(read - models if pruned else read)
                models_of.setdefault(artifact, set()).update(models)
                if is_recent:
                    kept.add(artifact)
    recent = set(kept)
    for run in runs:
        if run.name not in pruned:
            kept |= _closure(_blessed_and_pushed(run), inputs_of)
    # A repeated run asks for the earlier models of a kept one, but not for what these came from.
    kept |= {model for artifact in kept for model in models_of.get(artifact, ())}
    return kept - (images - recent) if with_images else kept


def _blessed_and_pushed(run: Run) -> set[int]:
    """Returns the artifacts from the model onwards of a run with a blessed model, else none."""
    steps = run.steps.values()
    if not run.blessed:
        return set()
    wanted = ("model", "model_run", "blessing", "evaluation", "pushed_model")
    found = {n for step in steps for name in wanted for n in step.output_ids.get(name, [])}
    if run.state == FINISHED:
        # The other artifacts of a complete run: statistics, pictures, reports.
        found |= {n for step in steps for ids in step.output_ids.values() for n in ids}
    return found


def _closure(start: Iterable[int], inputs_of: dict[int, set[int]]) -> set[int]:
    found: set[int] = set()
    waiting = list(start)
    while waiting:
        artifact = waiting.pop()
        if artifact not in found:
            found.add(artifact)
            waiting.extend(inputs_of.get(artifact, ()))
    return found


def _mark(store: Any, artifacts: Sequence[proto.Artifact], state: Any) -> None:
    for artifact in artifacts:
        artifact.state = state
    store.put_artifacts(artifacts)


def _place(uri: str, root: Path) -> Path:
    """Returns the folder to remove; values of steps are files in a folder of their own."""
    path = Path(present_uri(uri, root))
    return path.parent if path.name == "value" else path


def _size(path: Path) -> int:
    files = [path, *(Path(folder, name) for folder, _, names in os.walk(path) for name in names)]
    size = 0
    for file in files:
        # A run may be at work on the root, and other users' files may be unreadable.
        with contextlib.suppress(OSError):
            status = file.lstat()
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return size
