"""Runs the pipeline on this machine, with metadata in SQLite below the root folder."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import PipelineConfig, to_yaml
from pipeline.runs.run import ARTIFACTS, CONFIG_FILE, NOT_LABELLED_NOTE, Run
from pipeline.runs.store import METADATA_FILE, latest_run, note_latest_run
from pipeline.step_digests import step_digests
from trainer.errors import UserError

# Without free space, the first output would fail in the middle of a step, so it is checked first.
_LEAST_FREE_BYTES = 64 * 1024 * 1024


class RootError(UserError, ValueError):
    """Reports an unusable root folder; the message tells why and how to fix it."""


class _StepListener(logging.Handler):
    """Calls a function for the log lines that TFX writes at the start and end of a step."""

    def __init__(self, on_step: Callable[[str, float | None], None]) -> None:
        super().__init__(logging.INFO)
        self._on_step = on_step
        self._started: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Handles a log record; ignores all but the two kinds."""
        if record.msg == "Component %s is running.":
            (name,) = record.args  # type: ignore[misc]
            self._started[str(name)] = time.monotonic()
            self._on_step(str(name), None)
        elif record.msg == "Component %s is finished.":
            (name,) = record.args  # type: ignore[misc]
            elapsed = time.monotonic() - self._started[str(name)]
            self.seconds[str(name)] = elapsed
            self._on_step(str(name), elapsed)


def prepare_root(root: Path) -> None:
    """Creates the root folder and checks that it is writable.

    Raises:
        RootError: The folder is not writable or has too little free space.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable-{os.getpid()}"
        probe.write_bytes(b"vaeline")
        probe.unlink()
    except OSError as error:
        raise RootError(
            f"{root}: {error.strerror}; give a folder that you may write with --root"
        ) from error
    free = os.statvfs(root)
    if free.f_bavail * free.f_frsize < _LEAST_FREE_BYTES:
        raise RootError(
            f"{root}: only {free.f_bavail * free.f_frsize // 2**20} MiB are free; "
            "make room or give another folder with --root"
        )


def metadata_connection(root: Path) -> Any:
    """Returns the connection to the metadata store in a root folder."""
    from tfx import v1 as tfx

    return tfx.orchestration.metadata.sqlite_metadata_connection_config(str(root / METADATA_FILE))


def run_pipeline(
    config: PipelineConfig,
    *,
    root: Path,
    on_step: Callable[[str, float | None], None],
    notes: Mapping[str, str | float | int] | None = None,
) -> Run:
    """Runs every step whose inputs changed, in order.

    Args:
        config: The configuration.
        root: Folder of artifacts and metadata; see `prepare_root`.
        on_step: Function called with a step's name and None when it starts, and with its name and
            wall time in seconds when it ends.
        notes: Notes to attach to the run in the metadata store once it has begun.

    Returns:
        The run as recorded in the metadata store.

    Raises:
        Exception: Any error of a step; `pipeline.causes.cause` extracts the message for the user.
    """
    from tfx import v1 as tfx

    from components.bulk_inference.executor import UnblessedModelError
    from pipeline.graph import Places, create_pipeline

    prepare_root(root)
    (root / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
    pipeline = create_pipeline(
        config,
        places=Places(artifacts=str(root / ARTIFACTS), metadata=metadata_connection(root)),
        code_digest=step_digests(),
    )
    noted = not notes

    def step(name: str, seconds: float | None) -> None:
        nonlocal noted
        # TFX records the run with its first step.
        if not noted and seconds is not None:
            note_latest_run(root, notes or {})
            noted = True
        on_step(name, seconds)

    with timed_steps(step):
        try:
            tfx.orchestration.LocalDagRunner().run(pipeline)
        except UnblessedModelError as error:
            # Only the last step refused the model; the run's result is complete and is reported.
            note_latest_run(root, {NOT_LABELLED_NOTE: str(error)})
    return latest_run(root)


@contextlib.contextmanager
def timed_steps(
    on_step: Callable[[str, float | None], None] = lambda name, seconds: None,
) -> Iterator[dict[str, float]]:
    """Measures the steps of TFX's local runner within the block.

    Args:
        on_step: As for `run_pipeline`.

    Yields:
        Wall time in seconds by step, filled as steps end.
    """
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.INFO)
    tfx_logger = logging.getLogger("absl")
    listener = _StepListener(on_step)
    tfx_logger.addHandler(listener)
    try:
        yield listener.seconds
    finally:
        tfx_logger.removeHandler(listener)
