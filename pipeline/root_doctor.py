"""Examines the root folder of pipeline runs, for `vaeline doctor --root`. It changes nothing."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from components.model_push.management import open_store
from pipeline.local_runner import LEAST_FREE_BYTES, free_bytes, unwritable_paths
from pipeline.orchestration.lock import current_run_owner, read_run_owner
from pipeline.runs.location import replace_root
from pipeline.runs.metadata_file import check_metadata, is_empty, is_writable
from pipeline.runs.repair import Survey, survey_root, unrecorded_line
from pipeline.runs.run import CONFIG_FILE, FAILED, STOPPED, Run
from pipeline.runs.store import METADATA_FILE, read_runs
from trainer.errors import UserError
from trainer.name_lists import named

OK, NOTE, WRONG = "ok", "-", "WRONG"
"""States of a finding: as it should be, worth knowing, in need of attention."""

_PUSHED: Final = "pushed"


@dataclass(frozen=True)
class RootFinding:
    """The result of one check of a root.

    Attributes:
        name: name of the checked item.
        state: `OK`, `NOTE` or `WRONG`.
        found: what was found.
        remedy: what to do, or what the next run does; may be empty.
    """

    name: str
    state: str
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the finding as JSON-compatible values."""
        return asdict(self)


def examine_root(root: Path) -> list[RootFinding]:
    """Checks everything about a root that can keep a run from starting or change its result.

    Args:
        root: Absolute path of the root.
    """
    if not root.is_dir():
        return [RootFinding("folder", WRONG, f"{root}: no such folder", "correct --root")]
    if not os.access(root, os.R_OK | os.X_OK):
        return [RootFinding("folder", WRONG, f"{root}: cannot be read", "ask its owner for access")]
    findings = [_access(root), _space(root), _lock(root)]
    is_held = current_run_owner(root) is not None
    path = root / METADATA_FILE
    survey, runs = Survey(root), []
    try:
        if not is_empty(path):
            check_metadata(path, for_writing=is_writable(path) and not is_held, in_full=True)
            runs = read_runs(root, is_held=is_held)
        survey = survey_root(root)
    except (UserError, OSError) as error:
        findings.append(RootFinding("metadata", WRONG, str(error)))
    else:
        findings += [_metadata(survey, runs), *_artifacts(survey, is_held)]
    return [*findings, *_pushed(root, survey, runs)]


def _access(root: Path) -> RootFinding:
    foreign = unwritable_paths(root) if os.access(root, os.W_OK) else [root]
    if not foreign:
        return RootFinding("access", OK, "everything can be written")
    names = named(str(path) for path in foreign)
    return RootFinding(
        "access", WRONG, f"this user cannot write {names}",
        "list runs only, or run as the user who owns it",
    )  # fmt: skip


def _space(root: Path) -> RootFinding:
    free = free_bytes(root)
    found = f"{free / 2**30:,.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        return RootFinding("space", WRONG, found, "make room, as with `vaeline gc`")
    return RootFinding("space", OK, found)


def _lock(root: Path) -> RootFinding:
    owner = current_run_owner(root)
    if owner is not None:
        return RootFinding("lock", NOTE, f"in use: {owner}")
    stale = read_run_owner(root)
    if stale is not None:
        return RootFinding(
            "lock", NOTE, f"left by a killed process: {stale}", "the next run takes it over"
        )
    return RootFinding("lock", OK, "free")


def _metadata(survey: Survey, runs: list[Run]) -> RootFinding:
    if survey.unrecorded:
        return RootFinding("metadata", WRONG, unrecorded_line(survey))
    if not runs:
        return RootFinding("metadata", OK, "no run is recorded yet")
    found = f"runs: {len(runs):,}, the latest {runs[-1].state}; artifacts: {survey.artifacts:,}"
    if runs[-1].state in (FAILED, STOPPED):
        return RootFinding(
            "metadata", NOTE, found, "start it again: finished steps come from the cache"
        )
    return RootFinding("metadata", OK, found)


def _artifacts(survey: Survey, is_held: bool) -> Iterator[RootFinding]:
    if survey.former:
        former = ", ".join(path or "its own folder" for path in survey.former)
        yield RootFinding(
            "location", NOTE, f"recorded at {former}", "the next run adapts the records"
        )
    if survey.lost_models:
        yield RootFinding(
            "models", WRONG, f"files of blessed models are gone: {named(survey.lost_models)}",
            "restore them; otherwise they are no baseline and start no training",
        )  # fmt: skip
    if survey.lost_others:
        yield RootFinding(
            "artifacts", WRONG, f"files are gone: {named(survey.lost_others)}",
            "restore them; otherwise the steps that need them run again",
        )  # fmt: skip
    if survey.found:
        yield RootFinding(
            "artifacts restored", NOTE, f"{len(survey.found):,} were recorded as removed",
            "the next run uses them again",
        )  # fmt: skip
    # The step at work has no record of its outputs yet.
    if survey.leftovers and not is_held:
        names = [str(path.relative_to(survey.root)) for path in survey.leftovers]
        yield RootFinding(
            "leftovers", NOTE, f"of killed or failed steps: {named(names)}",
            "nothing reads them; `vaeline gc --yes` removes them",
        )  # fmt: skip
    if survey.artifacts and not survey.lost:
        yield RootFinding("artifacts", OK, "all files are there")


def _pushed(root: Path, survey: Survey, runs: list[Run]) -> Iterator[RootFinding]:
    folder = _push_folder(root, survey)
    if "://" in folder:
        yield RootFinding(
            _PUSHED, NOTE, f"{folder} is not examined", f"vaeline models list {folder}"
        )
        return
    try:
        store = open_store(folder)
        versions, latest, aliases = store.versions(), store.latest(), store.aliases()
    except (UserError, OSError) as error:
        yield RootFinding(_PUSHED, WRONG, str(error))
        return
    incomplete = [str(version.number) for version in versions if not version.complete]
    if incomplete:
        yield RootFinding(
            "incomplete versions", WRONG, f"{folder}: no saved_model.pb in {named(incomplete)}",
            "remove these versions; a server cannot load them",
        )  # fmt: skip
    complete = [version.number for version in versions if version.complete]
    dangling = [f"{name} ({a.version})" for name, a in aliases.items() if a.version not in complete]
    if dangling:
        yield RootFinding(
            "aliases", WRONG, f"{folder}: names of versions that are not there: {named(dangling)}",
            "`vaeline models alias` sets or removes them",
        )  # fmt: skip
    last = next((run.pushed for run in reversed(runs) if run.pushed), "")
    if not complete and last:
        yield RootFinding(
            _PUSHED, WRONG, f"{folder}: holds no model, although a run pushed {last}",
            "restore it, or start the run again, which pushes it again",
        )  # fmt: skip
    elif complete and latest != max(complete):
        yield RootFinding(
            "latest", WRONG, f"{folder}: `latest` names {latest or 'nothing'}; {max(complete)} is"
            " the newest version", "the next push or rollback repairs it",
        )  # fmt: skip
    elif complete and not incomplete:
        yield RootFinding(_PUSHED, OK, f"versions: {len(complete):,}, served: {latest}")


def _push_folder(root: Path, survey: Survey) -> str:
    """Returns `push.directory` of the latest run, or its default."""
    try:
        tree = yaml.safe_load((root / CONFIG_FILE).read_text("utf-8"))
        folder = str(tree["push"]["directory"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return str(root / _PUSHED)
    for former in survey.former:
        folder = replace_root(folder, former, str(root))
    return folder
