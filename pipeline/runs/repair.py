"""Compares the records of a root folder with its files, and adapts the records before a run.

TFX takes the path and the state of an artifact from ML Metadata: its cache, its resolvers of the
baseline and of the model to start from, and every step that reads an artifact. For a root that was
moved or that lost files the records are therefore adapted, once, by whoever holds the root's lock.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ml_metadata import proto

from pipeline.runs.location import present_uri, recorded_root, replace_root
from pipeline.runs.metadata_file import MetadataError, check_metadata, connected, is_empty
from pipeline.runs.run import ARTIFACTS
from pipeline.runs.store import METADATA_FILE
from trainer.name_lists import named

_LIVE, _DELETED = int(proto.Artifact.LIVE), int(proto.Artifact.DELETED)

# Files without which an artifact is of no use; others need only have any file.
_REQUIRED: Final = {
    "Model": ("Format-Serving/saved_model.pb", "Format-Serving/variables/variables.index"),
    "TransformGraph": ("transform_fn/saved_model.pb",),
    "Schema": ("schema.pbtxt",),
}
# Their verdict is a property, which still counts without files; the Evaluator's has no file at all.
_WITHOUT_FILES: Final = ("ModelBlessing", "InfraBlessing")
_MODEL_FILE: Final = "saved_model.pb"


@dataclass(frozen=True)
class Artifact:
    """The facts about a recorded artifact that decide whether its files are complete.

    Attributes:
        id: its id in the store.
        kind: its type, such as `Model`.
        uri: its recorded path.
        state: its state in ML Metadata.
        properties: its properties and custom properties.
    """

    id: int
    kind: str
    uri: str
    state: int
    properties: dict[str, Any]


@dataclass(frozen=True)
class Survey:
    """The differences between the records and the files of a root.

    Attributes:
        root: the root.
        artifacts: number of artifacts whose files should exist.
        former: other paths of the root that the records name.
        lost: artifacts whose files are missing or incomplete.
        found: artifacts recorded as deleted whose files are there.
        unrecorded: folders of outputs that the store would give to new executions.
        leftovers: other folders of outputs without a record, as a killed or failed step leaves.
        blessed: ids of blessed models.
    """

    root: Path
    artifacts: int = 0
    former: tuple[str, ...] = ()
    lost: tuple[Artifact, ...] = ()
    found: tuple[Artifact, ...] = ()
    unrecorded: tuple[Path, ...] = ()
    leftovers: tuple[Path, ...] = ()
    blessed: frozenset[int] = field(default=frozenset())

    @property
    def lost_models(self) -> list[str]:
        """Paths of lost artifacts that are blessed models, relative to the root."""
        return [self._name(artifact) for artifact in self.lost if artifact.id in self.blessed]

    @property
    def lost_others(self) -> list[str]:
        """Paths of all other lost artifacts, relative to the root."""
        return [self._name(artifact) for artifact in self.lost if artifact.id not in self.blessed]

    def lines(self) -> list[str]:
        """Returns a line for everything that a run does differently because of the differences."""
        lines = [
            f"this root was at {former or 'its own folder'} when it was recorded; it is read at"
            f" {self.root} now"
            for former in self.former
        ]
        lines += [
            f"{name}: the files of this blessed model are gone, so it is no baseline and starts no"
            " training"
            for name in self.lost_models
        ]
        if self.lost_others:
            lines.append(
                f"{named(self.lost_others)}: the files are gone, so what needs them runs again"
            )
        return lines

    def _name(self, artifact: Artifact) -> str:
        path = Path(present_uri(artifact.uri, self.root))
        if artifact.kind == "PushedModel" and path.is_dir():
            return str(_pushed_version(artifact, self.root))
        return str(path.relative_to(self.root))


def survey_root(root: Path) -> Survey:
    """Compares the records of a root with its files; changes nothing.

    Args:
        root: Absolute path of the root.

    Raises:
        MetadataError: The metadata store cannot be read.
    """
    path = root / METADATA_FILE
    if is_empty(path):
        return Survey(root, unrecorded=tuple(_outputs(root)))
    check_metadata(path)
    with connected(path) as store:
        artifacts = list(_read_artifacts(store))
        last = store.execute("SELECT MAX(id) FROM Execution").fetchone()[0] or 0
    own = [artifact for artifact in artifacts if recorded_root(artifact.uri) is not None]
    live = [artifact for artifact in own if artifact.state == _LIVE]
    deleted = [artifact for artifact in own if artifact.state == _DELETED]
    recorded = {Path(present_uri(artifact.uri, root)) for artifact in own}
    outputs = list(_outputs(root))
    return Survey(
        root,
        artifacts=len(live),
        former=tuple(sorted({recorded_root(a.uri) or "" for a in own} - {str(root)})),
        lost=tuple(artifact for artifact in live if not _is_complete(artifact, root)),
        found=tuple(
            artifact
            for artifact in deleted
            if Path(present_uri(artifact.uri, root)).exists() and _is_complete(artifact, root)
        ),
        # TFX numbers the folders of new outputs by their execution.
        unrecorded=tuple(folder for folder in outputs if int(folder.name) > last),
        leftovers=tuple(
            folder
            for folder in outputs
            if int(folder.name) <= last and not recorded & {folder, folder / "value"}
        ),
        blessed=frozenset(
            int(artifact.properties["current_model_id"])
            for artifact in own
            if artifact.kind == "ModelBlessing"
            and artifact.properties.get("blessed") == 1
            and "current_model_id" in artifact.properties
        ),
    )


def repair_metadata(root: Path) -> Survey:
    """Adapts the records of a root to its files; the caller must hold the root's lock.

    Recorded paths are changed to those of the root as it is now. An artifact whose files are gone
    is marked deleted, as `vaeline gc` does, so that TFX neither reuses nor resolves it; if its
    files are restored, it is marked live again.

    Args:
        root: Absolute path of the root.

    Returns:
        What was found.

    Raises:
        MetadataError: The metadata store cannot be used, or lacks outputs that exist. A run would
            write its outputs into the same folders.
    """
    path = root / METADATA_FILE
    if not is_empty(path):
        check_metadata(path, for_writing=True)
    survey = survey_root(root)
    if survey.unrecorded:
        raise MetadataError(unrecorded_line(survey))
    if survey.former or survey.lost or survey.found:
        _adapt(survey)
    return survey


def adapt_location(root: Path) -> None:
    """Changes recorded paths to those of a root that was copied to another folder.

    Args:
        root: Absolute path of the root, which has a metadata store.
    """
    survey = survey_root(root)
    if survey.former:
        _adapt(replace(survey, lost=(), found=()))


def unrecorded_line(survey: Survey) -> str:
    """Explains why no run may start on a root whose store lacks outputs."""
    folders = [str(folder.relative_to(survey.root)) for folder in survey.unrecorded]
    return (
        f"{survey.root / METADATA_FILE}: does not record {named(folders)}, so it was removed,"
        " emptied or replaced by an older one; restore it, or give a new folder with --root (what"
        " was pushed here stays usable)"
    )


def _adapt(survey: Survey) -> None:
    # In SQL, because ML Metadata changes the time of every record that it writes, and the times of
    # steps are those of their executions.
    with connected(survey.root / METADATA_FILE, for_writing=True) as store:
        store.execute("BEGIN IMMEDIATE")
        for artifacts, state in ((survey.lost, _DELETED), (survey.found, _LIVE)):
            store.executemany(
                "UPDATE Artifact SET state = ? WHERE id = ?", [(state, a.id) for a in artifacts]
            )
        if survey.former:
            _adapt_paths(store, survey)
        store.execute("COMMIT")


def _adapt_paths(store: Any, survey: Survey) -> None:
    rows = store.execute("SELECT uri, id FROM Artifact").fetchall()
    store.executemany(
        "UPDATE Artifact SET uri = ? WHERE id = ?",
        [(present_uri(uri, survey.root), number) for uri, number in rows if uri],
    )
    # The longest first: one former root may lie in another.
    former = sorted(survey.former, key=len, reverse=True)
    for table in ("ArtifactProperty", "ExecutionProperty"):
        changed = []
        for row, text in store.execute(
            f"SELECT rowid, string_value FROM {table} WHERE string_value IS NOT NULL"
        ):
            adapted = text
            for path in former:
                adapted = replace_root(adapted, path, str(survey.root))
            if adapted != text:
                changed.append((adapted, row))
        store.executemany(f"UPDATE {table} SET string_value = ? WHERE rowid = ?", changed)


def _read_artifacts(store: Any) -> Iterator[Artifact]:
    properties: dict[int, dict[str, Any]] = {}
    for number, name, text, integer in store.execute(
        "SELECT artifact_id, name, string_value, int_value FROM ArtifactProperty WHERE name IN"
        " ('blessed', 'current_model_id', 'pushed_destination', 'split_names')"
    ):
        properties.setdefault(number, {})[name] = text if text is not None else integer
    for number, kind, uri, state in store.execute(
        "SELECT a.id, t.name, a.uri, a.state FROM Artifact a JOIN Type t ON t.id = a.type_id"
    ):
        yield Artifact(number, kind, uri or "", state or 0, properties.get(number, {}))


def _is_complete(artifact: Artifact, root: Path) -> bool:
    path = Path(present_uri(artifact.uri, root))
    if artifact.kind in _WITHOUT_FILES:
        return artifact.kind == "InfraBlessing" or path.is_dir()
    if artifact.kind == "PushedModel":
        return path.is_dir() and not _is_push_lost(artifact, root)
    if artifact.kind in _REQUIRED and path.name != "value":
        return all((path / name).is_file() for name in _REQUIRED[artifact.kind])
    splits = _splits(artifact.properties) if artifact.kind == "Examples" else []
    return _has_file(path) and all(_has_file(path / f"Split-{split}") for split in splits)


def _is_push_lost(artifact: Artifact, root: Path) -> bool:
    """Tells whether the folder that a model was pushed to has no version any more.

    A missing version among others was pruned or rolled back on purpose.
    """
    version = _pushed_version(artifact, root)
    # Other destinations are buckets and Vertex endpoints.
    return version.is_absolute() and not any(version.parent.glob(f"[0-9]*/{_MODEL_FILE}"))


def _pushed_version(artifact: Artifact, root: Path) -> Path:
    recorded = str(artifact.properties.get("pushed_destination") or "")
    return Path(replace_root(recorded, recorded_root(artifact.uri) or "", str(root)))


def _splits(properties: Mapping[str, Any]) -> list[str]:
    try:
        return [str(name) for name in json.loads(properties.get("split_names") or "[]")]
    except ValueError:
        return []


def _has_file(path: Path) -> bool:
    return path.is_file() or any(file.is_file() for file in path.rglob("*"))


def _outputs(root: Path) -> Iterator[Path]:
    """Yields the folders of outputs that are not empty."""
    for folder in sorted((root / ARTIFACTS).glob("*/*/*")):
        is_own = not folder.parent.name.startswith(".")
        if is_own and folder.name.isdecimal() and folder.is_dir() and any(folder.iterdir()):
            yield folder
