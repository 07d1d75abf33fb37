"""Moves near-duplicates of one part into the splits that `near_copies.py` chose, or drops them.

`finishing.py` calls it for each slot of a part, after exact copies are gone and before the slot's
file is moved to its split.
"""

from collections import defaultdict
from collections.abc import Iterator, Set
from typing import Final

import numpy as np

from components.image_example_gen.account import Account, name_of
from components.image_example_gen.parts import Part, staged
from components.image_example_gen.splits import SLOTS, final_split
from components.image_example_gen.staged_records import described, take_records
from components.tfrecord_frames import frame
from trainer.storage import files

DROP: Final = 255
"""Instead of a slot: the image is dropped."""

NEAR: Final = np.dtype(
    [
        ("row", "<u4"),
        ("slot", "u1"),
        ("group", "u1", (32,)),
        ("family", "u1", (32,)),
        ("distance", "<f4"),
        ("represents", "?"),
        ("crosses", "?"),
    ]
)
"""Record of one image that has near-duplicates: its row in the part, the slot it goes to, digests
of the representative and of the family's first image, whether it is the representative itself, and
whether its group would lie in several splits otherwise."""


def move_near_copies(
    part: Part,
    slot: int,
    rows: np.ndarray,
    near: np.ndarray,
    named: Set[str],
    output: str,
) -> Iterator[tuple[object, ...]]:
    """Rewrites the staged file of a slot without the images that leave it, and writes these.

    Args:
        part: The part; its account is changed.
        slot: The slot.
        rows: int [m], the rows of the images in the slot's file, ascending.
        near: `NEAR` rows of the part.
        named: All splits that the source names.
        output: The artifact's folder.

    Yields:
        Rows of the table of near-duplicates.

    Raises:
        OSError: if the output cannot be written.
    """
    wanted = near[np.isin(near["row"], rows)]
    if not len(wanted):
        return
    source = f"{output}/{staged(part.number, slot)}"
    content = files.read_bytes(source)
    found, rest = take_records(
        content, np.searchsorted(rows, wanted["row"]), wanted["slot"] != slot
    )
    if len(rest) < len(content):
        files.write_bytes(source, rest)
    moved: defaultdict[int, list[bytes]] = defaultdict(list)
    before = final_split(slot, named)
    for record, request in zip(found, wanted, strict=True):
        target = int(request["slot"])
        is_dropped = target == DROP
        split = before if is_dropped else final_split(target, named)
        digest, key, label = described(record)
        if target not in (slot, DROP):
            moved[target].append(record)
        _count(part.account, request, name_of(before, label), name_of(split, label), is_dropped)
        group, family = (bytes(request[name]).hex() for name in ("group", "family"))
        distance = float(request["distance"])
        is_moved = split != before
        yield digest, key, label, split, group, family, distance, is_moved, is_dropped
    for target, records in moved.items():
        name = f"{part.name}-{SLOTS[target]}-from-{SLOTS[slot]}.tfrecord"
        split = final_split(target, named)
        files.write_bytes(f"{output}/Split-{split}/{name}", frame(records))


def _count(account: Account, request: np.void, before: str, after: str, is_dropped: bool) -> None:
    """Adds one image to the account."""
    account.near["images"] += 1
    account.near["groups"] += bool(request["represents"])
    account.near["crossing"] += bool(request["represents"]) and bool(request["crosses"])
    if is_dropped:
        account.near["dropped"] += 1
        account.examples[before] -= 1
    elif before != after:
        account.near["moved"] += 1
        account.examples[before] -= 1
        account.examples[after] += 1
