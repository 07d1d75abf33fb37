"""Locks a root folder: the local runner, retraining and retention work there one at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from components import locks
from components.locks import Owner
from trainer.errors import UserError

_LOCK_FILE: Final = ".run.lock"

EXIT_LOCKED: Final = 6
"""Exit code of a run that another one keeps out; a scheduler may take it for success."""


class LockedError(UserError, ValueError):
    """Another run holds the root folder; the message says whose it is and since when."""

    exit_code = EXIT_LOCKED


@contextlib.contextmanager
def run_lock(root: Path, what: str) -> Iterator[None]:
    """Holds the root folder while the body runs.

    Args:
        root: The folder; created if missing.
        what: The command that runs, such as `vaeline run`, for those who are refused.

    Raises:
        LockedError: Another process holds it.
    """

    def refusal(owner: Owner | None) -> LockedError:
        who = owner or "another run has just begun"
        return LockedError(f"{root} is in use: {who}; wait, or stop it first")

    root.mkdir(parents=True, exist_ok=True)
    # `current_run_owner` takes the lock for an instant to try it, hence the wait.
    with locks.hold(str(root / _LOCK_FILE), what, refusal=refusal, timeout_secs=0.5):
        yield


def current_run_owner(root: Path) -> Owner | None:
    """Returns the process that holds a root folder now; None if there is none."""
    return locks.current_owner(root / _LOCK_FILE)


def read_run_owner(root: Path) -> Owner | None:
    """Reads who took a root folder last; None if that is not known."""
    return locks.read_owner(root / _LOCK_FILE)
