"""Streams the sorted names in a folder tree without holding millions of them in memory.

`files.walk` is its only caller; the folder reader asks `kind_of` about what it finds.
"""

import heapq
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import Final, TextIO

from trainer.storage.failures import unreadable

_RUN: Final = 100_000
"""Largest number of names sorted in memory; more are sorted in runs on disk and merged."""


def walk(root: str) -> Iterator[str]:
    """Lists the files of a tree depth first, sorted by name, in the same order on every machine.

    Links to files and folders are followed, except a link to one of its own parent folders.

    Args:
        root: A folder.

    Yields:
        Paths relative to `root`, `/`-separated.

    Raises:
        StorageError: if a folder cannot be read.
    """
    yield from _walk(root, "", (_identity(root),))


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        # Below a folder that may be listed, but not entered.
        raise unreadable(path, error) from error
    return status.st_dev, status.st_ino


def _walk(root: str, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Lists one folder and its subfolders; `above` breaks cycles of links."""
    for name in _sorted_names(os.path.join(root, folder)):
        relative = f"{folder}/{name}" if folder else name
        if not relative.endswith("/"):
            yield relative
            continue
        relative = relative[:-1]
        identity = _identity(os.path.join(root, relative))
        if identity not in above:
            yield from _walk(root, relative, (*above, identity))


def _sorted_names(folder: str) -> Iterator[str]:
    """Yields the sorted names in one folder; names of subfolders end in `/`."""
    runs: list[TextIO] = []
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name + "/" if _is_folder(entry) else entry.name)
                if len(names) == _RUN:
                    runs.append(_spill(names))
                    names = []
        names.sort()
        yield from heapq.merge(*map(_unspill, runs), names)
    except OSError as error:
        raise unreadable(folder, error) from error
    finally:
        for run in runs:
            run.close()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _spill(names: list[str]) -> TextIO:
    """Writes a sorted run to an unnamed file; NUL, which no name contains, replaces newlines."""
    names.sort()
    # The caller closes it, because the run outlives this function.
    run = tempfile.TemporaryFile(  # noqa: SIM115
        "w+", encoding="utf-8", errors="surrogateescape", newline=""
    )
    run.writelines(name.replace("\n", "\0") + "\n" for name in names)
    run.seek(0)
    return run


def _unspill(run: TextIO) -> Iterator[str]:
    for line in run:
        yield line[:-1].replace("\0", "\n")


def kind_of(path: str) -> str:
    """Returns `link` (dangling) or `device` for a file that is not regular, otherwise "".

    Raises:
        OSError: if the path cannot be inspected.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            return "link"
        raise
    return "" if stat.S_ISREG(mode) else "device"
