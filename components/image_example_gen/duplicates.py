"""Finds exact duplicates by comparing digests in partitions of the digest's first byte.

Each part writes its packed digests, 45 bytes per image, to a file ordered by partition; the step
for a partition reads its rows from every part. Neither pixels nor digests therefore pass through
Beam's shuffle, which local runners hold in memory.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from components.image_example_gen.splits import UNLABELLED_SLOT

PARTITIONS: Final = 16
"""Number of partitions of the comparison; each is compared in memory."""

ROW: Final = np.dtype([("digest", "<u8", (4,)), ("label", "<u8"), ("row", "<u4"), ("slot", "u1")])
"""Record of one image of a part: digest, hash of the label (0 for none), row and slot."""

REQUEST: Final = np.dtype([("row", "<u4"), ("role", "u1"), ("conflict", "?")])
"""Record of one image that has copies: its role, and whether its copies have another label."""

FIRST: Final = 0
KEPT: Final = 1
DROPPED: Final = 2


@lru_cache(maxsize=65536)
def label_hash(label: str | None) -> int:
    """Hashes a label to 64 bits; 0 is reserved for a missing label."""
    if label is None:
        return 0
    digest = hashlib.blake2b(label.encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") or 1


def columns(
    digests: np.ndarray, labels: Sequence[str | None], slots: np.ndarray, first_row: int
) -> np.ndarray:
    """Packs the digests, labels and slots of one batch.

    Args:
        digests: uint8 [n, 32].
        labels: Class names.
        slots: uint8 [n].
        first_row: Row of the batch's first image in its part.

    Returns:
        `ROW` [n].
    """
    packed = np.empty(len(labels), ROW)
    packed["digest"] = np.ascontiguousarray(digests).view("<u8").reshape(-1, 4)
    packed["label"] = [label_hash(label) for label in labels]
    packed["row"] = np.arange(first_row, first_row + len(labels))
    packed["slot"] = slots
    return packed


def partition(packed: np.ndarray) -> tuple[bytes, tuple[int, ...]]:
    """Sorts packed rows by the first byte of their digest, with a stable order per partition.

    Args:
        packed: `ROW` [n].

    Returns:
        The rows as bytes, and the first row of each partition followed by n.
    """
    number = (packed["digest"][:, 0] & np.uint64(0xFF)).astype(np.uint8) % PARTITIONS
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(PARTITIONS + 1))
    return packed[order].tobytes(), tuple(bounds.tolist())


def find(parts: Iterable[tuple[int, bytes]], drop_all: bool) -> Iterator[tuple[int, bytes]]:
    """Finds the copies in one partition and decides which to keep.

    The first labelled copy in source order is kept, or the first copy if none is labelled. Only
    the order of parts and rows decides, not the order in which workers finish.

    Args:
        parts: Number of each part in source order, and its packed rows.
        drop_all: Whether to drop copies in the same slot as the first one as well.

    Yields:
        Number of a part, and packed `REQUEST` rows of all its images that have copies.
    """
    listed = sorted(parts)
    if not listed:
        return
    arrays = [np.frombuffer(packed, ROW) for _, packed in listed]
    numbers = np.repeat([number for number, _ in listed], [len(array) for array in arrays])
    rows = np.concatenate(arrays)
    order = np.argsort(rows["digest"][:, 0], kind="stable")
    first = rows["digest"][:, 0][order]
    same = first[1:] == first[:-1]
    candidates = np.sort(order[np.append(same, False) | np.append(False, same)])
    groups: dict[bytes, list[int]] = {}
    for i in candidates.tolist():
        groups.setdefault(rows["digest"][i].tobytes(), []).append(i)
    requests: dict[int, list[tuple[int, int, bool]]] = {}
    for copies in groups.values():
        if len(copies) < 2:
            continue
        copies.sort(key=lambda i: (bool(rows["slot"][i] == UNLABELLED_SLOT), i))
        labels = {int(rows["label"][i]) for i in copies} - {0}
        stays = rows["slot"][copies[0]]
        for rank, i in enumerate(copies):
            role = DROPPED if drop_all or rows["slot"][i] != stays else KEPT
            request = (int(rows["row"][i]), role if rank else FIRST, len(labels) > 1)
            requests.setdefault(int(numbers[i]), []).append(request)
    for number, wanted in requests.items():
        yield number, np.array(wanted, REQUEST).tobytes()
