"""Examines the file of a metadata store before ML Metadata opens it.

ML Metadata reports a locked, damaged or foreign file with the words of SQLite, and some of them
only in the middle of a run.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trainer.errors import UserError

_MAGIC: Final = b"SQLite format 3\0"
_TABLES: Final = frozenset(
    ("Artifact", "ArtifactProperty", "Context", "Event", "Execution", "ExecutionProperty", "Type")
)
_WAIT_SECS: Final = 3.0
"""How long to wait for another program's transaction; those of vaeline take milliseconds."""
_ALWAYS_CHECKED_BYTES: Final = 64 * 2**20
_REMEDY: Final = "restore it from a backup, or give a new folder with --root"
_DAMAGED: Final = f"is damaged or cut short; {_REMEDY}"


class MetadataError(UserError, ValueError):
    """Reports an unusable metadata store; the message names the file and what to do."""


def check_metadata(path: Path, *, for_writing: bool = False, in_full: bool = False) -> None:
    """Checks that a file is a metadata store that can be used now.

    Args:
        path: The file; it exists.
        for_writing: Whether the store will be written.
        in_full: Whether to look for damage in every page even of a large store, which takes a
            second for each 500 MB.

    Raises:
        MetadataError: It cannot be used.
    """
    _check_header(path)
    with connected(path, for_writing=for_writing) as connection:
        if for_writing:
            # Fails now if another program reads or writes in an open transaction.
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
        found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not found >= _TABLES:
            raise MetadataError(f"{path}: holds no records of runs; {_REMEDY}")
        if in_full or path.stat().st_size <= _ALWAYS_CHECKED_BYTES:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise MetadataError(f"{path}: {_DAMAGED}")


def is_empty(path: Path) -> bool:
    """Tells whether a metadata store is missing or has nothing in it, so that a run begins it."""
    try:
        return path.stat().st_size == 0
    except FileNotFoundError:
        return True


@contextlib.contextmanager
def connected(path: Path, *, for_writing: bool = False) -> Iterator[sqlite3.Connection]:
    """Opens a metadata store with SQLite; changes are written by `COMMIT` only.

    Args:
        path: The file; it exists.
        for_writing: Whether it will be written. Reading needs no write access.

    Raises:
        MetadataError: SQLite cannot open, read or write it.
    """
    # SQLite rolls back the transaction of a killed writer, for which it needs write access.
    mode = "rw" if for_writing or is_writable(path) else "ro"
    address = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        with contextlib.closing(
            sqlite3.connect(address, uri=True, timeout=_WAIT_SECS, isolation_level=None)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        raise MetadataError(f"{path}: {_reason(error, path)}") from error


def is_writable(path: Path) -> bool:
    """Tells whether this user may write a store; SQLite writes a file next to it, too."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _check_header(path: Path) -> None:
    if path.is_dir():
        raise MetadataError(f"{path}: is a folder and not a metadata store; {_REMEDY}")
    if not path.is_file():
        # Opening a pipe would wait for its writer.
        raise MetadataError(f"{path}: is no regular file and not a metadata store; {_REMEDY}")
    try:
        with path.open("rb") as file:
            header = file.read(len(_MAGIC))
    except OSError as error:
        raise MetadataError(
            f"{path}: {error.strerror}; ask its owner for access, or give another folder with"
            " --root"
        ) from error
    if not header:
        raise MetadataError(f"{path}: is empty, so no run is recorded; {_REMEDY}")
    if header != _MAGIC:
        raise MetadataError(f"{path}: is not an SQLite database; {_REMEDY}")


def _reason(error: sqlite3.Error, path: Path) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "another program has locked it; end that program, then start again"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _DAMAGED
    if name.startswith("SQLITE_READONLY_ROLLBACK") or (
        name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")) and _has_journal(path)
    ):
        return (
            "a run was killed while it wrote here; a user who may write it has to repair it once"
            " with `vaeline runs list`"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return "cannot be written; ask its owner for access, or give another folder with --root"
    if name.startswith("SQLITE_FULL"):
        return "no space is left; make room, then start again"
    return f"cannot be read ({' '.join(str(error).split())}); {_REMEDY}"


def _has_journal(path: Path) -> bool:
    return any(path.with_name(f"{path.name}{end}").exists() for end in ("-journal", "-wal"))
