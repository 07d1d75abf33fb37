"""Defines the interface of a format: a reader plans work units and reads one unit in batches.

Planning happens once, in the process that starts the job; the units are sent to workers.
"""

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from trainer.storage import files

if TYPE_CHECKING:
    from components.image_sources.tar_index import TarIndex


@dataclass(frozen=True)
class WorkUnit:
    """Describes the part of one archive that one worker reads; it is small and picklable.

    Attributes:
        index: Position in source order, from 0; it decides which of two copies is kept.
        source: The archive, folder or file.
        format: The format's key in the dispatch table of readers.
        start: Start of the part, in units that the reader defines.
        stop: End of the part, exclusive; -1 means the end of the source.
        members: Number of members; -1 if only reading reveals it.
        split: The split that the source's own name gives its images; None if it names none.
        extra: Any other data that the reader needs, such as a compressed list of names.
        earlier: How often its names occurred in earlier units, see `repeated_names.py`; empty for
            formats and archives where none did.
        unread: What to tell of labels that may have been missed, see `origins.UNREAD`. It is no
            part of `place`: whatever a version says there, finished units stay finished.
    """

    index: int
    source: str
    format: str
    start: int = 0
    stop: int = -1
    members: int = -1
    split: str | None = None
    extra: bytes = b""
    earlier: bytes = b""
    unread: str = ""

    @property
    def place(self) -> bytes:
        """Returns what distinguishes the unit from others of its source."""
        return f"{self.start}\0{self.stop}\0".encode() + self.extra + self.earlier


class Reader(abc.ABC):
    """Plans and reads the units of one format.

    Args:
        config: The input section, with spans resolved.
        index: Where the units of tars are kept; None keeps them nowhere.
    """

    def __init__(self, config: InputConfig, index: "TarIndex | None" = None) -> None:
        self.config = config
        self.index = index
        self.refuses_labels = config.labels.unreadable == "reject"

    @abc.abstractmethod
    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans the units of one file or folder; the caller assigns index and split.

        It streams, so that memory does not grow with the number of members.

        Raises:
            InputError: if the archive cannot be opened.
        """

    @abc.abstractmethod
    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads one unit, possibly in a process other than the one that planned it.

        Yields:
            Batches of at most `units.batch` members, in source order.

        Raises:
            InputError: if the archive as a whole is unreadable.
        """

    def version(self, unit: WorkUnit) -> bytes:
        """Returns a value that changes with the unit's members, without reading them.

        Here the source counts as a whole, with its size and its modification time or generation.
        """
        facts = files.stat(unit.source, self.config.storage)
        return unit.place + f"\0{facts.size}\0{facts.version}".encode()
