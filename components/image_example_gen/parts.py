"""Parts: what one worker writes of one unit, and how a part is finished.

A part is a few TFRecord files in the staging folder, one per slot. It is finished when all copies
are known: files that lose rows are written again without them, the others are moved.
"""

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import numpy as np
from tfx_bsl.coders import example_coder

from components.image_example_gen import duplicates, records, tables
from components.image_example_gen.account import CONFLICTS_NAMED, Account, name_of
from components.image_example_gen.inspection import Inspected
from components.image_example_gen.output import OutputFolder
from components.image_example_gen.splits import SLOTS, final_split
from components.image_sources.batch import Reject
from trainer import features

STAGING: Final = ".staging"
PARTS: Final = f"{STAGING}/parts"
REJECTS: Final = f"{STAGING}/rejects"
DUPLICATES: Final = f"{STAGING}/duplicates"
DONE: Final = f"{STAGING}/done"
_PARTS_PER_UNIT: Final = 1 << 20


@dataclass
class Part:
    """What is known of a written part.

    Attributes:
        number: Its place in source order.
        slots: uint8 [n] as bytes: the slot of each row, in source order.
        bounds: Where each partition's rows begin in the part's file of digests.
        counts: Images by slot and label.
        account: What needs no more decision: rejects, sizes.
    """

    number: int
    slots: bytes
    bounds: tuple[int, ...]
    counts: Counter[tuple[int, str | None]]
    account: Account

    @property
    def name(self) -> str:
        """Stem of its files."""
        return part_name(self.number)


def part_name(number: int) -> str:
    """Gives the stem of a part's files."""
    unit, part = divmod(number, _PARTS_PER_UNIT)
    return f"{unit:06d}-{part:04d}"


@dataclass
class PartWriter:
    """Writes one part.

    Attributes:
        output: The artifact's folder.
        unit: Index of the unit.
        index: Which part of it.
        rows: Images so far.
        size: Bytes of records so far.
    """

    output: OutputFolder
    unit: int
    index: int
    rows: int = 0
    size: int = 0
    _files: dict[int, BinaryIO] = field(default_factory=dict)
    _slots: list[bytes] = field(default_factory=list)
    _packed: list[np.ndarray] = field(default_factory=list)
    _rejects: list[Reject] = field(default_factory=list)
    _counts: Counter[tuple[int, str | None]] = field(default_factory=Counter)
    _account: Account = field(default_factory=Account)

    @property
    def number(self) -> int:
        """Its place in source order."""
        return self.unit * _PARTS_PER_UNIT + self.index

    def add(self, images: Inspected) -> None:
        """Writes one batch.

        Raises:
            OSError: if the output cannot be written.
        """
        account = self._account
        account.ignored += images.ignored
        account.converted += images.converted
        account.bytes += sum(map(len, images.data))
        account.formats.update(images.formats)
        sizes = Counter((header.width, header.height) for header in images.headers)
        for (width, height), number in sizes.items():
            account.sizes[f"{width}x{height}"] += number
        account.named_splits = sorted({*account.named_splits, *images.named})
        account.rejected.update(reject.reason for reject in images.rejects)
        self._rejects += images.rejects
        if not images.data:
            return
        slots = images.slots
        self._slots.append(slots.tobytes())
        self._counts.update(zip(slots.tolist(), images.labels, strict=True))
        self._packed.append(
            duplicates.columns(images.digests, images.labels, slots, first_row=self.rows)
        )
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
            framed = records.frame(chosen)
            self._file(slot).write(framed)
            self.size += len(framed)
        self.rows += len(images.data)

    def _file(self, slot: int) -> BinaryIO:
        if slot not in self._files:
            self._files[slot] = self.output.create(_staged(self.number, slot))
        return self._files[slot]

    def finish(self) -> Part:
        """Closes the files and leaves the digests in one of their own.

        Returns:
            The part.

        Raises:
            OSError: if the output cannot be written.
        """
        self.close()
        if self._rejects:
            content = tables.to_parquet(self._rejects, tables.REJECTS)
            self.output.write(f"{REJECTS}/{part_name(self.number)}.parquet", content)
        empty = np.empty(0, duplicates.ROW)
        digests, bounds = duplicates.partition(np.concatenate([empty, *self._packed]))
        if digests:
            self.output.write(digests_file(self.number), digests)
        if self.output.is_local:
            met = self.rows + len(self._rejects)
            self.output.write(f"{DONE}/{part_name(self.number)}.{met}", b"")
        return Part(self.number, b"".join(self._slots), bounds, self._counts, self._account)

    def close(self) -> None:
        """Closes the files, whatever happened."""
        files, self._files = self._files, {}
        for file in files.values():
            file.close()


def digests_file(number: int) -> str:
    """Gives the name of a part's file of digests."""
    return f"{STAGING}/digests/{part_name(number)}.bin"


def _staged(number: int, slot: int) -> str:
    return f"{PARTS}/{part_name(number)}-{SLOTS[slot]}.tfrecord"


def finish_part(part: Part, requests: np.ndarray, named: Set[str], output: OutputFolder) -> Account:
    """Moves a part's files into their splits, without the copies that go.

    Args:
        part: The part.
        requests: `duplicates.REQUEST` [m]: its images that have copies.
        named: All splits that the source names.
        output: The artifact's folder.

    Returns:
        The part's account.

    Raises:
        OSError: if the output cannot be written.
    """
    account = part.account
    slots = np.frombuffer(part.slots, np.uint8)
    requests = np.sort(requests, order="row")
    table: list[tuple[object, ...]] = []
    for (slot, label), number in part.counts.items():
        account.examples[name_of(final_split(slot, named), label)] += number
    for slot in np.unique(slots).tolist():
        split = final_split(slot, named)
        source = _staged(part.number, slot)
        target = f"Split-{split}/{part_name(part.number)}-{SLOTS[slot]}.tfrecord"
        wanted = requests[slots[requests["row"]] == slot]
        if len(wanted):
            # Rows count over the whole part, records over the slot's file.
            places = np.searchsorted(np.flatnonzero(slots == slot), wanted["row"])
            content = output.read(source)
            found, rest = _take(content, places, wanted["role"] == duplicates.DROPPED)
            table += _describe(found, wanted, split, account)
            if len(rest) < len(content):
                output.write(source, rest)
            if not rest:
                continue
        output.move(source, target)
    if table:
        content = tables.to_parquet(table, tables.DUPLICATES)
        output.write(f"{DUPLICATES}/{part.name}.parquet", content)
    return account


def _take(content: bytes, places: np.ndarray, drop: np.ndarray) -> tuple[list[bytes], bytes]:
    """Takes records out of a TFRecord file.

    Args:
        content: The file.
        places: int [m], which records are wanted; ascending.
        drop: bool [m], which of them go.

    Returns:
        The wanted records, and the file without those that go.
    """
    bounds = list(records.frames(content))
    found, rest, kept_to = [], [], 0
    for place, goes in zip(places.tolist(), drop.tolist(), strict=True):
        start, stop = bounds[place]
        found.append(content[start + 12 : stop - 4])
        if goes:
            rest.append(content[kept_to:start])
            kept_to = stop
    rest.append(content[kept_to:])
    return found, b"".join(rest)


def _describe(
    found: list[bytes], requests: np.ndarray, split: str, account: Account
) -> Iterator[tuple[object, ...]]:
    """Gives rows of the duplicates table, and corrects the account for what goes."""
    batch = example_coder.ExamplesToRecordBatchDecoder().DecodeBatch(found)
    columns = {
        name: batch.column(name).to_pylist() for name in (features.FILENAME, features.SHA256)
    }
    has_labels = features.LABEL_TEXT in batch.schema.names
    labels = batch.column(features.LABEL_TEXT).to_pylist() if has_labels else [None] * len(found)
    for i, (role, conflict) in enumerate(requests[["role", "conflict"]].tolist()):
        known: list[bytes] | None = labels[i]
        key = columns[features.FILENAME][i][0].decode("utf-8", "backslashreplace")
        digest = columns[features.SHA256][i][0].decode("ascii")
        label = known[0].decode("utf-8", "surrogateescape") if known else None
        dropped = role == duplicates.DROPPED
        if dropped:
            account.examples[name_of(split, label)] -= 1
            account.duplicates[name_of(split, label)] += 1
        elif role == duplicates.KEPT:
            account.copies_kept += 1
        if conflict:
            account.conflicts += role == duplicates.FIRST
            if len(account.conflict_names) < 2 * CONFLICTS_NAMED:
                account.conflict_names.append((digest, key, label or ""))
        yield digest, key, label, split, dropped, conflict
