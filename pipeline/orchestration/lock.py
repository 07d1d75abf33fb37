"""One run at a time on one root folder; the local runner, retraining and retention take the lock.

The operating system holds it (`flock`), so that a process that dies by any cause gives it back.
The holder's name stands in a second file, because a locked file may not be readable everywhere.
"""

import contextlib
import datetime
import getpass
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from trainer.errors import UserError

LOCK_FILE = ".run.lock"
HOLDER_FILE = ".run.json"

EXIT_LOCKED = 6
"""Exit code of a run that another one keeps out; a scheduler may take it for success."""


class LockedError(UserError, ValueError):
    """Another run holds the root folder; the message says whose it is and since when."""

    exit_code = EXIT_LOCKED


@dataclass(frozen=True)
class Holder:
    """Who holds a root folder.

    Attributes:
        user: the account's name.
        host: the machine's name.
        pid: the process.
        since: time of the start, ISO 8601 with its zone.
        what: the command that runs.
    """

    user: str
    host: str
    pid: int
    since: str
    what: str

    def __str__(self) -> str:
        return f"{self.what} by {self.user} on {self.host}, process {self.pid}, since {self.since}"


@contextlib.contextmanager
def run_lock(root: Path, what: str) -> Iterator[None]:
    """Holds the root folder while the body runs.

    Args:
        root: The folder; made when missing.
        what: Said to those who come second, such as `vaeline run`.

    Raises:
        LockedError: Another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(root / LOCK_FILE)
    try:
        # A moment's patience: `current_holder` takes the lock for an instant to try it.
        lock.acquire(timeout=0.5)
    except filelock.Timeout:
        raise LockedError(f"{root} is in use: {_describe(root)}; wait, or stop it first") from None
    try:
        holder = Holder(
            user=_account(),
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            what=what,
        )
        _write(root / HOLDER_FILE, json.dumps(asdict(holder)))
        yield
    finally:
        (root / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def current_holder(root: Path) -> Holder | None:
    """Tells who holds a root folder now; None where nobody does.

    What a dead process left behind counts for nothing: the lock itself is asked.
    """
    path = root / LOCK_FILE
    if not path.exists():
        return None
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return read_holder(root) or Holder("someone", "this machine", 0, "just now", "a run")
    lock.release()
    return None


def read_holder(root: Path) -> Holder | None:
    """Reads who took the lock last; None where that is not known."""
    try:
        return Holder(**json.loads((root / HOLDER_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _describe(root: Path) -> str:
    holder = read_holder(root)
    return str(holder) if holder is not None else "another run has just begun"


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"user {os.getuid()}"


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
