"""Writes ingest's files to a folder on disk, or through Beam to a prefix in object storage.

Every file is first written to the staging folder and then moved, so that a split's folder never
holds a partial file.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from trainer.errors import InputError

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_PERMISSION: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_AS_IT_IS: Final = "uncompressed"
"""Beam's `CompressionTypes.UNCOMPRESSED`."""


class OutputFolder:
    """Writes, reads and moves files in one folder.

    Args:
        uri: A path, or an address that Beam supports.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.removeprefix("file://").rstrip("/")
        self.is_local = "://" not in self.uri

    def path(self, name: str) -> str:
        """Returns the full path of a file in the folder."""
        return f"{self.uri}/{name}"

    def create(self, name: str) -> BinaryIO:
        """Opens a new file for writing and creates its parent folders."""
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
        """Reads a byte range of a file."""
        path = self.path(name)
        if self.is_local:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                return file.read(length)
        with _beam().open(path, compression_type=_AS_IT_IS) as file:
            file.seek(start)
            return file.read(length)

    def move(self, name: str, target: str) -> None:
        """Moves a file; repeating a completed move does nothing."""
        source, destination = self.path(name), self.path(target)
        if self.is_local:
            os.makedirs(os.path.dirname(destination), exist_ok=True)
            if os.path.exists(source) or not os.path.exists(destination):
                os.replace(source, destination)
        elif _beam().exists(source) or not _beam().exists(destination):
            _beam().rename([source], [destination])

    def names(self, folder: str) -> Iterator[str]:
        """Lists the files directly in a folder, sorted."""
        if self.is_local:
            path = self.path(folder)
            found = os.listdir(path) if os.path.isdir(path) else []
            yield from (f"{folder}/{name}" for name in sorted(found))
            return
        matched = _beam().match([self.path(folder) + "/*"])[0].metadata_list
        yield from sorted(entry.path.removeprefix(self.uri + "/") for entry in matched)

    def remove(self, folder: str) -> None:
        """Removes a folder and its content; does nothing if there is none."""
        path = self.path(folder)
        if self.is_local:
            shutil.rmtree(path, ignore_errors=True)
        elif _beam().match([path + "/**"])[0].metadata_list:
            _beam().delete([path + "/"])


def _beam() -> Any:
    """Imports Beam's file systems; this takes seconds, which local outputs avoid."""
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def unwritable(uri: str, error: OSError) -> InputError:
    """Returns the error for an output that cannot be written."""
    if error.errno in _NO_SPACE:
        return InputError(f"{uri}: no space left to write to; free some, or choose another root")
    if error.errno in _NO_PERMISSION:
        return InputError(f"{uri}: cannot be written to; check its owner, mode and mount")
    return InputError(f"{uri}: cannot be written to: {error.strerror or error}")
