"""The interface of a source of images: it plans work units, and it reads one unit in batches.

Planning happens once, in the process that starts the job; units travel to workers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig


@dataclass(frozen=True)
class WorkUnit:
    """A part of one archive that one worker reads; small and picklable.

    Attributes:
        index: Position in source order, from 0; it decides which of two copies stays.
        source: The archive, folder or file.
        format: The reader: a key of the dispatch table.
        start: Where the part begins, in the reader's own measure.
        stop: Where it ends; -1: at the end of the source.
        members: Members in it; -1 where only reading tells.
        extra: What else the reader needs, for instance a packed list of names.
    """

    index: int
    source: str
    format: str
    start: int = 0
    stop: int = -1
    members: int = -1
    extra: bytes = b""


class FileFacts(NamedTuple):
    """What tells one version of a file from another without reading it.

    Attributes:
        size: Bytes.
        version: Times of the last changes of content and inode, or the object's generation.
    """

    size: int
    version: str


class Source(Protocol):
    """Images of one or several archives."""

    def units(self) -> Iterator[WorkUnit]:
        """Plans the work, streaming: memory does not grow with the number of members.

        Raises:
            InputError: if there is nothing to read, or it cannot be opened.
        """

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads one unit.

        Args:
            unit: One of `units()`, perhaps from another process.

        Yields:
            Batches of at most `units.batch` members, in source order.

        Raises:
            InputError: if the archive as a whole turns out unreadable.
        """


class Reader(NamedTuple):
    """One format's entry in the dispatch table.

    Attributes:
        plan: Plans the units of one file or folder; their index is given later.
        read: Reads one unit of it.
    """

    plan: Callable[[str, InputConfig], Iterator[WorkUnit]]
    read: Callable[[WorkUnit, InputConfig], Iterator[MemberBatch]]
