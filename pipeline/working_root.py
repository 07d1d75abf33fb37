"""Opens the root of a command: a folder, or a bucket, whose files are then mirrored in a folder.

`vaeline run`, `retrain`, `gc`, `runs` and `report` use it. TFX's steps write local files only; see
docs/decisions/0014-root-in-a-bucket.md.
"""

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import InputError
from trainer.storage.addresses import names_bucket

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkingRoot:
    """A root that a command may write.

    Attributes:
        folder: the folder to work in.
        publish: uploads what the finished steps wrote; does nothing for a root that is a folder.
    """

    folder: Path
    publish: Callable[[], None]


@contextlib.contextmanager
def working_root(root: str, what: str, *, say: Callable[[str], object]) -> Iterator[WorkingRoot]:
    """Opens a root for writing; one in a bucket is locked, fetched, and published at the end.

    Args:
        root: A folder, or an address in a bucket.
        what: The command that runs, for the message to others.
        say: Called with a line for the user.

    Raises:
        InputError: The folder of a root in a bucket cannot be made.
        LockedError: Another process holds the root in the bucket.
        MirrorError: The root in the bucket cannot be used, or another run has written it.
        StorageError: The bucket cannot be read or written.
    """
    if not names_bucket(root):
        yield WorkingRoot(Path(root), lambda: None)
        return
    from pipeline.mirror import Mirror
    from pipeline.orchestration.lock import run_lock

    folder = root_folder(root)
    with run_lock(root, what), _fetching(folder, timeout_secs=-1):
        mirror = Mirror(root, folder)
        if count := mirror.fetch(for_writing=True):
            say(f"fetched {count:,} files of {root} to {folder}")
        try:
            yield WorkingRoot(folder, mirror.publish)
        except BaseException as error:
            # What was done until then, also by the step that failed, is there for the next run.
            try:
                mirror.publish(whole=True)
            except Exception as other:
                _LOG.warning("%s: not published: %s", root, other)
                error.add_note(f"not everything was uploaded to {root}: {other}")
            raise
        mirror.publish(whole=True)


def fetched_root(root: str) -> Path:
    """Returns the folder of a root for reading; one in a bucket is fetched to it.

    Args:
        root: A folder, or an address in a bucket.

    Raises:
        InputError: The folder of a root in a bucket cannot be made.
        StorageError: The bucket cannot be read.
    """
    folder = root_folder(root)
    if names_bucket(root):
        from pipeline.mirror import Mirror

        # While a run of this machine is at work, the folder is ahead of the bucket.
        with contextlib.suppress(_BusyError), _fetching(folder, timeout_secs=0):
            Mirror(root, folder).fetch(for_writing=False)
    return folder


def root_folder(root: str) -> Path:
    """Returns the folder of a root; for one in a bucket, that of this user with the same files."""
    if not names_bucket(root):
        return Path(root)
    root = root.rstrip("/")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", root).strip("-")[:80]
    unique = hashlib.sha256(root.encode()).hexdigest()[:12]
    return Path(cache).expanduser().resolve() / "vaeline" / "roots" / f"{readable}-{unique}"


def root_fault(folder: Path) -> str:
    """Returns why this user cannot write a root's folder; empty if it can be written or made."""
    from pipeline.local_runner import unwritable_paths

    # `Path.exists` fails where a folder above may not be entered.
    found = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not os.path.isdir(found):
        return f"{found}: a file, not a folder; give another folder with --root"
    remedy = "change its owner or mode, or give another folder with --root"
    if not os.access(found, os.W_OK | os.X_OK):
        return f"{found}: this user may not write there; {remedy}"
    foreign = unwritable_paths(found) if found == folder else []
    return f"{foreign[0]}: this user may not write it; {remedy}" if foreign else ""


def missing_parent(folder: Path) -> str:
    """Returns that the folder above a root is missing, and what it may mean; empty if it exists."""
    if os.path.exists(folder.parent):
        return ""
    return (
        f"{folder.parent} does not exist, and the first run makes it: if the path is wrong, or a"
        " disk is not mounted, correct --root or mount the disk"
    )


class _BusyError(Exception):
    """Reports that another process of this machine uses the folder."""


@contextlib.contextmanager
def _fetching(folder: Path, *, timeout_secs: float) -> Iterator[None]:
    from components import locks

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # As for an account without a home.
        raise InputError(
            f"{folder}: {error.strerror}; name a folder for copies of roots with XDG_CACHE_HOME"
        ) from error
    with locks.hold(
        f"{folder}.lock", "a fetch", refusal=lambda _: _BusyError(), timeout_secs=timeout_secs
    ):
        yield
