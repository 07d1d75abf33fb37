"""Defines what files on disk and objects have in common: facts, and reads of ranges."""

from typing import NamedTuple, Protocol


class FileFacts(NamedTuple):
    """Identifies the version of a file without reading its content.

    Attributes:
        size: Size in bytes.
        version: Modification times of content and inode, or the object's generation.
        modified: Time of the last modification, in seconds since 1970.
    """

    size: int
    version: str
    modified: float


class RangedFile(Protocol):
    """Reads a file by ranges, from any thread."""

    @property
    def size(self) -> int:
        """Returns the size of the file in bytes."""

    def read(self, start: int, length: int) -> bytes:
        """Reads `length` bytes, fewer at the end of the file."""

    def close(self) -> None:
        """Releases the file."""
