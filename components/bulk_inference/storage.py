"""Files of a job's input and output, on disk or in an object store, and how they appear whole.

Local files are written under a temporary name and renamed; an object appears whole by itself.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from components.image_sources.errors import InputError

TEMPORARY = ".tmp-"
"""How names of unfinished local files start; the next job removes them."""


def is_remote(path: str) -> bool:
    """Tells `gs://bucket/...` and its like from a local path."""
    return "://" in path


def _filesystems() -> Any:
    # apache_beam takes seconds to import; a job on local files only reads cards without it.
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def exists(path: str) -> bool:
    """Tells whether a file is there."""
    return bool(_filesystems().exists(path)) if is_remote(path) else Path(path).exists()


def is_folder(path: str) -> bool:
    """Tells whether a folder, or a remote prefix with something under it, is there."""
    return bool(list_names(path)) if is_remote(path) else Path(path).is_dir()


def list_names(folder: str) -> list[str]:
    """Names directly under a folder, sorted; none where it does not exist."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if Path(folder).is_dir() else []
    prefix = folder.rstrip("/") + "/"
    found = _filesystems().match([prefix + "**"])[0].metadata_list
    return sorted({entry.path.removeprefix(prefix).split("/", 1)[0] for entry in found})


def read_bytes(path: str) -> bytes:
    """Reads a whole file.

    Raises:
        FileNotFoundError: if it is not there.
    """
    if not is_remote(path):
        return Path(path).read_bytes()
    if not exists(path):
        raise FileNotFoundError(path)
    with _filesystems().open(path, compression_type="uncompressed") as file:
        return bytes(file.read())


@contextmanager
def writing(path: str) -> Iterator[IO[bytes]]:
    """Opens a file that appears, whole, when the block ends without an error.

    Args:
        path: Where it appears; missing folders are made.
    """
    if is_remote(path):
        spool = tempfile.SpooledTemporaryFile(max_size=64 * 1024 * 1024)  # noqa: SIM115
        with spool:
            yield spool
            spool.seek(0)
            with _filesystems().create(path, compression_type="uncompressed") as file:
                shutil.copyfileobj(spool, file)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
    try:
        with temporary.open("wb") as local:
            yield local
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file that appears whole."""
    with writing(path) as file:
        file.write(content)


def remove(path: str) -> None:
    """Removes a file or a folder with all that is in it; nothing happens where there is none."""
    if is_remote(path):
        matches = _filesystems().match([path.rstrip("/") + "/**", path])
        found = {entry.path for match in matches for entry in match.metadata_list}
        if found:
            _filesystems().delete(sorted(found))
    elif Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def remove_unfinished(folder: str) -> None:
    """Removes what a killed job left under temporary names."""
    if not is_remote(folder) and Path(folder).is_dir():
        for left in Path(folder).rglob(f"{TEMPORARY}*"):
            left.unlink(missing_ok=True)


def require_writable(folder: str) -> None:
    """Makes the output folder and proves that it can be written.

    Raises:
        InputError: if it cannot.
    """
    probe = f"{folder.rstrip('/')}/{TEMPORARY}probe"
    try:
        write_bytes(probe, b"")
        remove(probe)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{folder}: the output cannot be written: {reason}") from error
