"""Files that ingest writes: a folder on disk, or a prefix in object storage through Beam.

Everything is first written under the staging folder and then moved, so that a split's folder
never holds half a file.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from components.image_sources.errors import InputError

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_PERMISSION: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_AS_IT_IS: Final = "uncompressed"
"""Beam's `CompressionTypes.UNCOMPRESSED`."""


class OutputFolder:
    """One folder that files are written to.

    Args:
        uri: A path, or an address that Beam knows.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.removeprefix("file://").rstrip("/")
        self.is_local = "://" not in self.uri

    def path(self, name: str) -> str:
        """Gives the full path of a file in the folder."""
        return f"{self.uri}/{name}"

    def create(self, name: str) -> BinaryIO:
        """Opens a new file for writing; folders above it are made."""
        path = self.path(name)
        if self.is_local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return open(path, "wb")
        return _beam().create(path, compression_type=_AS_IT_IS)

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file."""
        with self.create(name) as file:
            file.write(content)

    def read(self, name: str) -> bytes:
        """Reads a whole file."""
        path = self.path(name)
        if self.is_local:
            with open(path, "rb") as file:
                return file.read()
        with _beam().open(path, compression_type=_AS_IT_IS) as file:
            return file.read()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Reads a part of a file."""
        path = self.path(name)
        if self.is_local:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                return file.read(length)
        with _beam().open(path, compression_type=_AS_IT_IS) as file:
            file.seek(start)
            return file.read(length)

    def move(self, name: str, target: str) -> None:
        """Moves a file; repeating a move that happened does nothing."""
        source, destination = self.path(name), self.path(target)
        if self.is_local:
            os.makedirs(os.path.dirname(destination), exist_ok=True)
            if os.path.exists(source) or not os.path.exists(destination):
                os.replace(source, destination)
        elif _beam().exists(source) or not _beam().exists(destination):
            _beam().rename([source], [destination])

    def names(self, folder: str) -> Iterator[str]:
        """Lists the files right in a folder, sorted."""
        if self.is_local:
            path = self.path(folder)
            found = os.listdir(path) if os.path.isdir(path) else []
            yield from (f"{folder}/{name}" for name in sorted(found))
            return
        matched = _beam().match([self.path(folder) + "/*"])[0].metadata_list
        yield from sorted(entry.path.removeprefix(self.uri + "/") for entry in matched)

    def remove(self, folder: str) -> None:
        """Removes a folder with all that is in it; nothing happens where there is none."""
        path = self.path(folder)
        if self.is_local:
            shutil.rmtree(path, ignore_errors=True)
        elif _beam().match([path + "/**"])[0].metadata_list:
            _beam().delete([path + "/"])


def _beam() -> Any:
    """Imports Beam's file systems, which takes seconds that a local output never pays."""
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def unwritable(uri: str, error: OSError) -> InputError:
    """Words a failure to write."""
    if error.errno in _NO_SPACE:
        return InputError(f"{uri}: no space left to write to; free some, or choose another root")
    if error.errno in _NO_PERMISSION:
        return InputError(f"{uri}: cannot be written to; check its owner, mode and mount")
    return InputError(f"{uri}: cannot be written to: {error.strerror or error}")
