"""Locks a folder or a Cloud Storage prefix for one run, job or push at a time.

On disk the operating system holds the lock (`flock`), so it is released whenever the process ends,
even by a crash. In Cloud Storage the owner rewrites an object every few seconds, and a lock object
without such a heartbeat is taken over.
"""

import contextlib
import datetime
import errno
import fcntl
import getpass
import json
import logging
import os
import posixpath
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import filelock

from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.failures import OutputError

_LOG = logging.getLogger(__name__)

_HEARTBEAT_SECS: Final = 15.0
_STALE_SECS: Final = 50.0
"""Age of the last heartbeat after which the owner of a lock object is considered dead."""
_UNSUPPORTED: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers of file systems that do not support locks."""


@dataclass(frozen=True)
class Owner:
    """Identifies the process that holds a lock.

    Attributes:
        user: Name of the account.
        host: Name of the machine.
        pid: Process id.
        since: Time at which it took the lock, ISO 8601 with time zone.
        what: The command that is running.
        token: Random value that distinguishes the locks of one process.
        beats: Number of heartbeats so far, for lock objects.
    """

    user: str
    host: str
    pid: int
    since: str
    what: str
    token: str = ""
    beats: int = 0

    def __str__(self) -> str:
        return f"{self.what} by {self.user} on {self.host}, process {self.pid}, since {self.since}"


@contextlib.contextmanager
def hold(
    path: str,
    what: str,
    *,
    refusal: Callable[[Owner | None], Exception],
    timeout_secs: float = 0.0,
) -> Iterator[None]:
    """Holds a lock while the body runs.

    Args:
        path: The lock file or object; its folder must exist. On disk a second file next to it
            describes the owner, because some systems do not allow reading a locked file.
        what: The command that is running, for the error message of other processes.
        refusal: Returns the error to raise if another process holds the lock. Its argument is the
            owner, or None if the owner is unknown.
        timeout_secs: How long to wait for a lock on disk; -1 waits forever.

    Raises:
        OutputError: if another process took over the lock object because its heartbeat stopped.
        OSError: if the lock file cannot be opened.
    """
    owner = _this_process(what)
    if files.is_remote(path):
        with _held_object(path, owner, refusal):
            yield
    else:
        with _held_file(Path(path), owner, refusal, timeout_secs):
            yield


def current_owner(path: Path) -> Owner | None:
    """Returns the process that currently holds a lock on disk; None if there is none.

    It tries the lock itself, because a killed process leaves its description behind. A shared lock
    for an instant needs no write access and does not hinder others who ask.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError:
        owner = read_owner(path)
        return None if owner is None or _is_gone(owner) else owner
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_owner(path) or Owner("someone", "this machine", 0, "just now", "a run")
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
    return None


def read_owner(path: Path) -> Owner | None:
    """Reads the last owner of a lock on disk; None if it is unknown."""
    try:
        return _parse_owner(_description(path).read_bytes())
    except OSError:
        return None


@contextlib.contextmanager
def _held_file(
    path: Path, owner: Owner, refusal: Callable[[Owner | None], Exception], timeout_secs: float
) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=timeout_secs)
    except filelock.Timeout:
        raise refusal(read_owner(path)) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # Without lock support only the user can prevent a second process.
        _LOG.warning("%s: no locks on this file system: %s", path, error)
    try:
        files.write_bytes(str(_description(path)), _as_json(owner))
        yield
    finally:
        _description(path).unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _held_object(
    path: str, owner: Owner, refusal: Callable[[Owner | None], Exception]
) -> Iterator[None]:
    version = _take(path, _as_json(owner), refusal)
    done = threading.Event()
    lost: list[Exception] = []

    def beat() -> None:
        nonlocal owner, version
        while not done.wait(_HEARTBEAT_SECS):
            try:
                # S3 gives equal contents equal versions, which would look like no heartbeat.
                owner = replace(owner, beats=owner.beats + 1)
                version = _renew(path, version, owner)
            except FileExistsError as error:
                lost.append(error)
                return
            except (InputError, OSError) as error:
                _LOG.warning("%s: not renewed: %s", path, error)

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
        if lost:
            raise OutputError(
                posixpath.dirname(path),
                "another job took this output over while this one stood still; wait for it, then"
                " start again",
            )
    finally:
        done.set()
        thread.join()
        if not lost:
            try:
                files.remove(path)
            except (InputError, OSError) as error:
                # The job's own end matters more, and a lock that is not renewed is taken over.
                _LOG.warning("%s: not removed: %s", path, error)


def _take(path: str, content: bytes, refusal: Callable[[Owner | None], Exception]) -> str:
    """Writes the lock object if it is missing or its owner is dead; returns its version."""
    if not files.exists(path):
        with contextlib.suppress(FileExistsError):
            return files.write_if(path, content, version="")
    try:
        owner = _parse_owner(files.read_bytes(path))
        before = files.stat(path).version
        if owner is None or not _is_gone(owner):
            deadline = time.monotonic() + _STALE_SECS
            while time.monotonic() < deadline:
                time.sleep(min(_HEARTBEAT_SECS / 5, 1.0))
                if files.stat(path).version != before:
                    raise refusal(owner)
        return files.write_if(path, content, before)
    except FileNotFoundError:
        return _take(path, content, refusal)
    except FileExistsError:
        raise refusal(owner) from None


def _renew(path: str, version: str, owner: Owner) -> str:
    try:
        return files.write_if(path, _as_json(owner), version)
    except FileExistsError:
        # The object is still ours if only a response was lost and the request was repeated.
        found = _parse_owner(files.read_bytes(path))
        if found is None or found.token != owner.token:
            raise
        return files.stat(path).version


def _description(path: Path) -> Path:
    return path.with_suffix(".json")


def _this_process(what: str) -> Owner:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # the user of a container may have no name
        user = f"user {os.getuid()}"
    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return Owner(user, socket.gethostname(), os.getpid(), since, what, uuid.uuid4().hex)


def _as_json(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode()


def _parse_owner(content: bytes) -> Owner | None:
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _is_gone(owner: Owner) -> bool:
    """Returns whether the owner is a process of this machine that no longer runs."""
    return owner.host == socket.gethostname() and not Path(f"/proc/{owner.pid}").exists()
