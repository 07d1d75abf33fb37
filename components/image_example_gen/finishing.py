"""Turns parts into the artifact's files once all copies are known.

Files that lose rows are rewritten without them; the others are moved. The Beam steps in
`transforms.py` call it, and `local_run.py` does so for all parts at once.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final, NamedTuple

import numpy as np

from components.image_example_gen import duplicates, near_moves, tables
from components.image_example_gen.account import CONFLICTS_NAMED, Account, dumps, name_of
from components.image_example_gen.parts import STAGING, Part, digests_file, part_name, staged
from components.image_example_gen.splits import SLOTS, final_split
from components.image_example_gen.staged_records import described, take_records
from components.sinks import parquet_table
from trainer.data import features
from trainer.storage import files

DUPLICATES: Final = f"{STAGING}/duplicates"
NEAR_DUPLICATES: Final = f"{STAGING}/near_duplicates"
ACCOUNTS: Final = f"{STAGING}/accounts"
PLACES: Final = f"{STAGING}/places"
"""Folder of the final splits of measured images, see `_final_places`."""
GONE: Final = 255
"""Instead of a split: the image was dropped."""


class PartFacts(NamedTuple):
    """Holds the small amount of data that finishing needs from every part."""

    number: int
    bounds: tuple[int, ...]
    named_splits: list[str]


def facts_of(part: Part) -> PartFacts:
    """Extracts the facts of a part."""
    return PartFacts(part.number, part.bounds, part.account.named_splits)


def find_copies(
    partition: int, facts: Iterable[PartFacts], output: str, drop_all: bool
) -> Iterator[tuple[int, bytes]]:
    """Reads one partition's rows from every part and finds the copies among them.

    Args:
        partition: The number of the partition, below `duplicates.PARTITIONS`.
        facts: The facts of all parts.
        output: The artifact's folder.
        drop_all: See `duplicates.find`.

    Yields:
        Number of a part, and packed `duplicates.REQUEST` rows.
    """
    size = duplicates.ROW.itemsize
    rows = []
    for number, bounds, _ in facts:
        start, stop = bounds[partition], bounds[partition + 1]
        if stop > start:
            name = digests_file(number)
            file = files.open_ranged(f"{output}/{name}")
            try:
                rows.append((number, file.read(start * size, (stop - start) * size)))
            finally:
                file.close()
    yield from duplicates.find(rows, drop_all)


def finish_part(
    part: Part,
    packed: Iterable[bytes],
    near: Iterable[bytes],
    facts: Iterable[PartFacts],
    output: str,
) -> None:
    """Moves a part's files into their splits without the dropped copies and writes its account.

    Args:
        part: The part.
        packed: The rows that `find_copies` yielded for it.
        near: The rows that `find_near_copies` yielded for it, of all its images that have
            near-duplicates.
        facts: The facts of all parts.
        output: The artifact's folder.

    Raises:
        OSError: if the output cannot be written.
    """
    requests = np.sort(np.frombuffer(b"".join(packed), duplicates.REQUEST), order="row")
    named = {split for known in facts for split in known.named_splits}
    placed = np.frombuffer(b"".join(near), near_moves.NEAR)
    if part.is_measured:
        final = _final_places(part, requests, placed, named)
        files.write_bytes(f"{output}/{PLACES}/{part.number}", final.tobytes())
    account = _move(part, requests, placed, named, output)
    files.write_bytes(f"{output}/{ACCOUNTS}/{part.name}.json", dumps(account))


def _final_places(
    part: Part, requests: np.ndarray, near: np.ndarray, named: Set[str]
) -> np.ndarray:
    """Returns for each row of a part its split's index in `features.SPLITS`, or `GONE`."""
    table = np.full(256, GONE, np.uint8)
    for slot in range(len(SLOTS)):
        table[slot] = features.SPLITS.index(final_split(slot, named))
    slots = np.frombuffer(part.slots, np.uint8).copy()
    slots[near["row"]] = near["slot"]
    slots[requests["row"][requests["role"] == duplicates.DROPPED]] = near_moves.DROP
    return table[slots]


def _move(
    part: Part, requests: np.ndarray, near: np.ndarray, named: Set[str], output: str
) -> Account:
    """Moves the files of one part and returns its account."""
    account = part.account
    slots = np.frombuffer(part.slots, np.uint8)
    copies: list[tuple[object, ...]] = []
    near_copies: list[tuple[object, ...]] = []
    for (slot, label), number in part.counts.items():
        account.examples[name_of(final_split(slot, named), label)] += number
    places = {
        row: final_split(to, named) if to != near_moves.DROP else None
        for row, to in near[["row", "slot"]].tolist()
    }
    for slot in np.unique(slots).tolist():
        split = final_split(slot, named)
        source = f"{output}/{staged(part.number, slot)}"
        target = f"{output}/Split-{split}/{part_name(part.number)}-{SLOTS[slot]}.tfrecord"
        rows = np.flatnonzero(slots == slot)
        wanted = requests[slots[requests["row"]] == slot]
        if len(wanted):
            # Row numbers refer to the whole part, record numbers to the slot's file.
            content = files.read_bytes(source)
            is_dropped = wanted["role"] == duplicates.DROPPED
            found, rest = take_records(content, np.searchsorted(rows, wanted["row"]), is_dropped)
            copies += _describe(found, wanted, split, account, places)
            if len(rest) < len(content):
                files.write_bytes(source, rest)
            rows = np.setdiff1d(rows, wanted["row"][is_dropped])
        near_copies += near_moves.move_near_copies(part, slot, rows, near, named, output)
        leaving = near["slot"][np.isin(near["row"], rows)] != slot
        if leaving.sum() < len(rows):
            files.move(source, target)
    for table, folder, schema in (
        (copies, DUPLICATES, tables.DUPLICATES),
        (near_copies, NEAR_DUPLICATES, tables.NEAR_DUPLICATES),
    ):
        if table:
            content = parquet_table(table, schema)
            files.write_bytes(f"{output}/{folder}/{part.name}.parquet", content)
    return account


def _describe(
    found: list[bytes],
    requests: np.ndarray,
    split: str,
    account: Account,
    places: Mapping[int, str | None],
) -> Iterator[tuple[object, ...]]:
    """Yields rows of the duplicates table and subtracts dropped copies from the account.

    `places` holds the splits of near-duplicates by row, None for those that are dropped as such.
    """
    for record, (row, role, conflict) in zip(found, requests.tolist(), strict=True):
        digest, key, label = described(record)
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
        place = places.get(row, split)
        is_gone = dropped or place is None
        yield digest, key, label, place or split, is_gone, conflict
