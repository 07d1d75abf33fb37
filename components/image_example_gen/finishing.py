"""Parts to the artifact's files, once all copies are known.

Files that lose rows are written again without them, the others are moved. Called by the Beam step
in `transforms.py`.
"""

from collections.abc import Iterator, Set
from typing import Final

import numpy as np
from tfx_bsl.coders import example_coder

from components.image_example_gen import duplicates, records, tables
from components.image_example_gen.account import CONFLICTS_NAMED, Account, name_of
from components.image_example_gen.output import OutputFolder
from components.image_example_gen.parts import STAGING, Part, part_name, staged
from components.image_example_gen.splits import SLOTS, final_split
from trainer import features

DUPLICATES: Final = f"{STAGING}/duplicates"


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
        source = staged(part.number, slot)
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
