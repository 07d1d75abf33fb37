"""Writes parts, the files that one worker produces for one unit.

A part consists of a few TFRecord files in the staging folder, one per slot, and a file of digests.
`units.py` writes parts; `finishing.py` completes them when all copies are known.
"""

import errno
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Final

import numpy as np

from components import tfrecord_frames
from components.image_example_gen import duplicates, records
from components.image_example_gen.account import Account
from components.image_example_gen.inspection import Inspected
from components.image_example_gen.splits import SLOTS
from components.image_sources.batch import Reject
from components.near_duplicates.perceptual_hash import SIDE, WINDOWS, WORDS, hashes
from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.failures import DISK_FULL, OutputError

STAGING: Final = ".staging"
PARTS: Final = f"{STAGING}/parts"
REJECTS: Final = f"{STAGING}/rejects"
DONE: Final = f"{STAGING}/done"

NEAR_ROW: Final = np.dtype(
    [
        ("digest", "u1", (32,)),
        ("slot", "u1"),
        ("thumb", "u1", (SIDE, SIDE)),
        ("words", "<u8", (WINDOWS, WORDS)),
    ]
)
"""What is compared of one image of a part, in the order of its rows."""

_PARTS_PER_UNIT: Final = 1 << 20
_NO_PERMISSION: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass
class Part:
    """Describes a written part.

    Attributes:
        number: Position of the part in source order.
        slots: uint8 [n] as bytes: the slot of each row, in source order.
        bounds: First row of each partition in the part's file of digests.
        counts: Images by slot and label.
        account: The counts that are final already: rejects, sizes.
        is_measured: Whether there are files of measures and names.
    """

    number: int
    slots: bytes
    bounds: tuple[int, ...]
    counts: Counter[tuple[int, str | None]]
    account: Account
    is_measured: bool

    @property
    def name(self) -> str:
        """Returns the stem of the part's file names."""
        return part_name(self.number)


def part_name(number: int) -> str:
    """Returns the stem of a part's file names."""
    unit, part = divmod(number, _PARTS_PER_UNIT)
    return f"{unit:06d}-{part:04d}"


@dataclass
class PartWriter:
    """Writes one part.

    Attributes:
        output: The artifact's folder.
        unit: Index of the unit.
        index: Index of the part within the unit.
        rows: Number of images so far.
        size: Bytes of records so far.
    """

    output: str
    unit: int
    index: int
    rows: int = 0
    size: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    _files: dict[int, IO[bytes]] = field(default_factory=dict)
    _slots: list[bytes] = field(default_factory=list)
    _packed: list[np.ndarray] = field(default_factory=list)
    _near: list[np.ndarray] = field(default_factory=list)
    _measures: list[np.ndarray] = field(default_factory=list)
    _keys: list[np.ndarray] = field(default_factory=list)
    _names: list[tuple[str, str, str | None]] = field(default_factory=list)
    _rejects: list[Reject] = field(default_factory=list)
    _counts: Counter[tuple[int, str | None]] = field(default_factory=Counter)
    _account: Account = field(default_factory=Account)

    @property
    def number(self) -> int:
        """Returns the part's position in source order."""
        return self.unit * _PARTS_PER_UNIT + self.index

    def add(self, images: Inspected) -> None:
        """Writes one batch.

        Raises:
            OSError: if the output cannot be written.
        """
        self._account.add(images)
        self._rejects += images.rejects
        if not images.data:
            return
        slots = images.slots
        self._slots.append(slots.tobytes())
        self._counts.update(zip(slots.tolist(), images.labels, strict=True))
        self._packed.append(
            duplicates.columns(images.digests, images.labels, slots, first_row=self.rows)
        )
        if len(images.thumbs):
            near = np.empty(len(slots), NEAR_ROW)
            near["digest"], near["slot"] = images.digests, slots
            near["thumb"], near["words"] = images.thumbs, hashes(images.thumbs)
            self._near.append(near)
        if len(images.measures):
            self._measures.append(images.measures)
            self._keys.append(images.pixel_keys)
            digests = (bytes(digest).hex() for digest in images.digests)
            self._names.extend(zip(digests, images.keys, images.labels, strict=True))
        encoded = records.encode(
            images.keys, images.data, images.headers, images.digests, images.labels
        )
        present = np.unique(slots)
        for slot in present.tolist():
            chosen = (
                encoded
                if len(present) == 1
                else [encoded[i] for i in np.flatnonzero(slots == slot).tolist()]
            )
            framed = tfrecord_frames.frame(chosen)
            self._file(slot).write(framed)
            self.size += len(framed)
        self.rows += len(images.data)

    def _file(self, slot: int) -> IO[bytes]:
        if slot not in self._files:
            path = f"{self.output}/{staged(self.number, slot)}"
            self._files[slot] = self._stack.enter_context(files.writing(path))
        return self._files[slot]

    def finish(self) -> Part:
        """Closes the record files and writes the file of digests.

        Returns:
            The part.

        Raises:
            OSError: if the output cannot be written.
        """
        self._stack.close()
        if self._rejects:
            # Only workers that find rejects load Arrow.
            from components.sinks import REJECT_SCHEMA, parquet_table

            content = parquet_table(self._rejects, REJECT_SCHEMA)
            files.write_bytes(f"{self.output}/{REJECTS}/{part_name(self.number)}.parquet", content)
        empty = np.empty(0, duplicates.ROW)
        digests, bounds = duplicates.partition(np.concatenate([empty, *self._packed]))
        if digests:
            files.write_bytes(f"{self.output}/{digests_file(self.number)}", digests)
        if self._near:
            content = np.concatenate(self._near).tobytes()
            files.write_bytes(f"{self.output}/{near_file(self.number)}", content)
        if self._measures:
            measured = np.concatenate(self._measures).tobytes()
            files.write_bytes(f"{self.output}/{measures_file(self.number)}", measured)
            keys = np.concatenate(self._keys).astype("<u8").tobytes()
            files.write_bytes(f"{self.output}/{pixels_file(self.number)}", keys)
            named = json.dumps(self._names).encode()
            files.write_bytes(f"{self.output}/{names_file(self.number)}", named)
        if not files.is_remote(self.output):
            met = self.rows + len(self._rejects)
            files.write_bytes(f"{self.output}/{DONE}/{part_name(self.number)}.{met}", b"")
        return Part(
            self.number,
            b"".join(self._slots),
            bounds,
            self._counts,
            self._account,
            is_measured=bool(self._measures),
        )

    def close(self) -> None:
        """Discards the files of a part that an error kept from being finished."""
        self._stack.__exit__(*sys.exc_info())


def digests_file(number: int) -> str:
    """Returns the name of a part's file of digests."""
    return f"{STAGING}/digests/{part_name(number)}.bin"


def near_file(number: int) -> str:
    """Returns the name of a part's file of `NEAR_ROW`."""
    return f"{STAGING}/near/{part_name(number)}.bin"


def measures_file(number: int) -> str:
    """Returns the name of a part's file of measures: float32, in the order of its rows."""
    return f"{STAGING}/measures/{part_name(number)}.bin"


def pixels_file(number: int) -> str:
    """Returns the name of a part's file of hashes of pixels: uint64, in the same order."""
    return f"{STAGING}/pixels/{part_name(number)}.bin"


def names_file(number: int) -> str:
    """Returns the name of a part's file of digests, keys and labels: JSON, in the same order."""
    return f"{STAGING}/names/{part_name(number)}.json"


def staged(number: int, slot: int) -> str:
    """Returns the name of a part's file for one slot."""
    return f"{PARTS}/{part_name(number)}-{SLOTS[slot]}.tfrecord"


def unwritable(uri: str, error: OSError) -> OutputError:
    """Returns the error for an artifact's folder that cannot be written."""
    if error.errno in DISK_FULL:
        return OutputError(uri, "no space left to write to; free some, or choose another root")
    if error.errno in _NO_PERMISSION:
        return OutputError(uri, "cannot be written to; check its owner, mode and mount")
    return OutputError(uri, f"cannot be written to: {error.strerror or error}")


@contextmanager
def output_explained(uri: str) -> Iterator[None]:
    """Translates failures to write, of whatever file, into one error about the folder.

    Raises:
        OutputError: if the folder cannot be written.
    """
    try:
        yield
    except OutputError as error:
        cause = error.__cause__
        raise unwritable(uri, cause) if isinstance(cause, OSError) else error from error
    except InputError:
        raise
    except OSError as error:
        raise unwritable(uri, error) from error
