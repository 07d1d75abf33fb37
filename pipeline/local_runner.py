"""Runs the pipeline on this machine, with metadata in SQLite below the root folder."""

import glob
import multiprocessing
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from components.bulk_inference.running.beam_options import require_known_options
from components.image_schema_gen.curated_schema import schema_digest
from components.model_push.readers import group_id
from pipeline.config import PipelineConfig, to_yaml
from pipeline.log_files import LOGS
from pipeline.runs.metadata_file import is_empty
from pipeline.runs.run import ARTIFACTS, CONFIG_FILE, NOT_LABELLED_NOTE, Run
from pipeline.runs.store import (
    METADATA_FILE,
    latest_run,
    note_latest_run,
    pipeline_names,
    read_runs,
)
from pipeline.step_digests import step_digests
from trainer.backbone_weights import digest_of
from trainer.errors import UserError
from trainer.quick_imports import quick_imports

_OTHER_RUNNERS: Final = re.compile(r"--runner[= ](\S*\.|Prism|Portable|Flink|Spark)", re.IGNORECASE)
"""Runners with options that Beam's own list lacks: job servers, and classes named by a path."""
LEAST_FREE_BYTES: Final = 64 * 1024 * 1024
"""Free space that a run needs at least; its first output would fail in the middle of a step."""


class RootError(UserError, ValueError):
    """Reports an unusable root folder; the message tells why and how to fix it."""


def prepare_root(root: Path, group: str = "") -> None:
    """Creates the root folder and checks that it is writable.

    Args:
        root: Folder of artifacts and metadata.
        group: `push.group`; checked here, because the push comes last.

    Raises:
        InputError: Files cannot be given to the group.
        RootError: The folder, or what earlier runs wrote there, is not writable, too little
            space is free, or steps cannot use its path; or the machine gives no semaphores.
    """
    if group:
        group_id(group)
    if glob.has_magic(str(root)):
        raise RootError(
            f"{root}: Beam and TensorFlow take * ? [ in the path of an output for a pattern; give a"
            " folder without them with --root"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = free_bytes(root)
        if free < LEAST_FREE_BYTES:
            raise RootError(
                f"{root}: only {free // 2**20} MiB are free; "
                "make room or give another folder with --root"
            )
        probe = root / f".writable-{os.getpid()}"
        probe.write_bytes(b"vaeline")
        probe.unlink()
    except OSError as error:
        raise RootError(
            f"{root}: {error.strerror}; give a folder that you may write with --root"
        ) from error
    foreign = unwritable_paths(root)
    if foreign:
        raise RootError(
            f"{foreign[0]}: cannot be written, as when another user ran the pipeline here; run it"
            " as that user, or give another folder with --root"
        )
    try:
        multiprocessing.Lock()
    except OSError as error:
        # Beam's writers make some; their error would not name the folder.
        raise RootError(
            f"/dev/shm: {error.strerror}; Beam needs semaphores, which Linux keeps there: mount a"
            " tmpfs that this user may write"
        ) from error


def _require_plain_interpreter(args: Iterable[str]) -> None:
    """Raises `RootError` if Beam's worker processes would never start."""
    if "multi_processing" in " ".join(args) and shlex.quote(sys.executable) != sys.executable:
        raise RootError(
            f"beam.args: with multi_processing Beam gives {sys.executable} to a shell, which splits"
            " the path; use --runner=components.process_runner.ProcessRunner and"
            " --direct_num_workers=N instead"
        )


def require_name(root: Path, name: str) -> None:
    """Checks that the blessed models of a root are those of the pipeline that is about to run.

    TFX finds models by the pipeline's name. Under another name a model would be blessed as the
    first one, without a comparison, and replace the one that is served.

    Args:
        root: Folder of artifacts and metadata; its store was checked.
        name: The pipeline's name.

    Raises:
        RootError: There are blessed models, but no run of this name.
    """
    if is_empty(root / METADATA_FILE):
        return
    names = pipeline_names(root)
    if names and name not in names and any(run.blessed for run in read_runs(root)):
        raise RootError(
            f"{root}: its models are those of the pipeline {' and '.join(names)}, and {name} would"
            f" not be compared with them; set name: {names[0]}, or give another folder with --root"
        )


def unwritable_paths(root: Path) -> list[Path]:
    """Lists what a run writes in an existing root and this user may not."""
    names = (METADATA_FILE, CONFIG_FILE, ".run.lock", LOGS, "pushed", ARTIFACTS)
    patterns = (*names, f"{ARTIFACTS}/*", f"{ARTIFACTS}/*/*")
    paths = {path for pattern in patterns for path in root.glob(pattern)}
    return sorted(path for path in paths if not os.access(path, os.W_OK))


def free_bytes(root: Path) -> int:
    """Returns the space on the root's file system that this user may use."""
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize


def metadata_connection(root: Path) -> Any:
    """Returns the connection to the metadata store in a root folder."""
    from components.tfx_api import tfx

    return tfx.orchestration.metadata.sqlite_metadata_connection_config(str(root / METADATA_FILE))


def run_pipeline(
    config: PipelineConfig,
    *,
    root: Path,
    on_step: Callable[[str, float | None], None],
    on_judged: Callable[[Run], None] = lambda run: None,
    notes: Mapping[str, str | float | int] | None = None,
) -> Run:
    """Runs every step whose inputs changed.

    Args:
        config: The configuration.
        root: Folder of artifacts and metadata; see `prepare_root`.
        on_step: As for `DagRunner`: called at the start and the end of each step.
        on_judged: Called with the run so far when ModelGate has ended, in the main thread.
        notes: Notes to attach to the run in the metadata store once it has begun.

    Returns:
        The run as recorded in the metadata store.

    Raises:
        RootError: The root holds the models of another pipeline, or worker processes cannot start.
        InputError: Beam does not know an option of `beam.args`.
        Exception: Any error of a step; `pipeline.causes.cause` extracts the message for the user.
    """
    # Before TFX is imported: what is missing is reported at once.
    _require_plain_interpreter(config.beam.args)
    weights = digest_of(config.model.backbone_options)
    schema = schema_digest(config.data_schema.path)
    require_name(root, config.name)
    with quick_imports():
        from absl import logging as absl_logging

        from components.bulk_inference.executor import UnblessedModelError
        from components.serving_check.check import STOP_CHECKS, end_ahead, start_ahead
        from pipeline.cache_keys import location_independent_cache
        from pipeline.dag_runner import DagRunner
        from pipeline.graph import create_pipeline
        from pipeline.places import Places
        from pipeline.quick_beam import quick_beam

    others_read_them = bool(_OTHER_RUNNERS.search(" ".join(config.beam.args)))
    require_known_options("beam.args", config.beam.args, others_read_them=others_read_them)
    # Artifacts are recorded by their paths, which must not depend on the current folder.
    root = root.resolve()
    prepare_root(root)
    (root / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
    places = Places(
        artifacts=str(root / ARTIFACTS),
        metadata=metadata_connection(root),
        weights=weights,
        schema=schema,
    )
    pipeline = create_pipeline(config, places=places, code_digest=step_digests())
    noted = not notes

    def step(name: str, seconds: float | None) -> None:
        nonlocal noted
        # TFX records the run with its first step.
        if not noted and seconds is not None:
            note_latest_run(root, notes or {})
            noted = True
        on_step(name, seconds)
        if name == "ModelGate" and seconds is not None:
            with runner.metadata_lock:
                judged = latest_run(root)
            on_judged(judged)

    STOP_CHECKS.clear()
    is_parallel = config.parallel_steps > 1
    aside = {"ServingCheck": STOP_CHECKS.set} if is_parallel else {}
    # A step from the cache leads to a model that was checked before, as a rule.
    at_work = {"Trainer": start_ahead} if is_parallel and config.serving_check.enabled else {}
    runner = DagRunner(on_step=step, aside=aside, at_work=at_work)
    absl_logging.set_verbosity(absl_logging.INFO)
    with location_independent_cache(root), quick_beam():
        try:
            runner.run(pipeline)
        except UnblessedModelError as error:
            # Only the last step refused the model; the run's result is complete and is reported.
            note_latest_run(root, {NOT_LABELLED_NOTE: str(error)})
        finally:
            end_ahead()
    return latest_run(root)
