"""Defines the interface of a format: a reader plans work units and reads one unit in batches.

Planning happens once, in the process that starts the job; units travel to workers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

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


class Reader(NamedTuple):
    """One format's entry in the dispatch table.

    Attributes:
        plan: Plans the units of one file or folder; their index is given later. It streams, so
            that memory does not grow with the number of members. It raises `InputError` if the
            archive cannot be opened.
        read: Reads one unit, perhaps in another process than planned it, in batches of at most
            `units.batch` members in source order. It raises `InputError` if the archive as a whole
            turns out unreadable.
    """

    plan: Callable[[str, InputConfig], Iterator[WorkUnit]]
    read: Callable[[WorkUnit, InputConfig], Iterator[MemberBatch]]
