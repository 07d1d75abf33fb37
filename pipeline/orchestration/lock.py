"""Locks a root, so that only one run, retraining or removal uses it at a time."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from components import locks
from components.locks import Owner
from trainer.errors import UserError
from trainer.storage import files
from trainer.storage.addresses import names_bucket

_LOCK_FILE: Final = ".run.lock"

EXIT_LOCKED: Final = 6
"""Exit code of a run that another run locks out; a scheduler may treat it as success."""


class LockedError(UserError, ValueError):
    """Reports that another run holds the root folder; the message names its owner and start."""

    exit_code = EXIT_LOCKED


@contextlib.contextmanager
def run_lock(root: Path | str, what: str) -> Iterator[None]:
    """Locks the root while the body runs.

    Args:
        root: The folder, created if missing, or the address of a root in a bucket.
        what: The command that runs, such as `vaeline run`, for the message to others.

    Raises:
        LockedError: Another process holds it.
    """
    files.make_folder(str(root))
    refusal = functools.partial(_locked, root)
    # Wait briefly, because `current_run_owner` tests the lock by acquiring it for an instant.
    with locks.hold(f"{root}/{_LOCK_FILE}", what, refusal=refusal, timeout_secs=0.5):
        yield


def require_free(root: Path) -> None:
    """Checks that no process holds a root folder, before anything is said about a run there.

    Raises:
        LockedError: Another process holds it.
    """
    if owner := current_run_owner(root):
        raise _locked(root, owner)


def _locked(root: Path | str, owner: Owner | None) -> LockedError:
    who = owner or "another run has just begun"
    return LockedError(f"{root} is in use: {who}; wait, or stop it first")


def current_run_owner(root: Path) -> Owner | None:
    """Returns the process that currently holds a root folder; None if there is none."""
    return locks.current_owner(root / _LOCK_FILE)


def is_held(root: str, folder: Path) -> bool:
    """Returns whether a run is active on a root.

    Args:
        root: A folder, or an address in a bucket, whose lock a dead machine may have left.
        folder: The folder of the root on this machine.
    """
    return current_run_owner(folder) is not None or (
        names_bucket(root) and files.exists(f"{root}/{_LOCK_FILE}")
    )


def read_run_owner(root: Path) -> Owner | None:
    """Reads the last owner of a root folder's lock; None if it is unknown."""
    return locks.read_owner(root / _LOCK_FILE)
