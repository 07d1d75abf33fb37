"""Finds near-duplicates among the images of all parts, and decides where they go.

`local_run.py` and `transforms.py` call `find_near_copies` once all exact copies are known. What is
compared lies in files that are mapped into memory, so that memory hardly grows with the number of
images.
"""

import tempfile
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from components.image_example_gen import duplicates
from components.image_example_gen.finishing import PartFacts
from components.image_example_gen.near_moves import DROP, NEAR
from components.image_example_gen.parts import NEAR_ROW, STAGING, near_file
from components.image_example_gen.splits import POOL, SLOTS, UNLABELLED_SLOT, final_split
from components.near_duplicates.finding import NearGroups, find_near_groups
from trainer.data import features
from trainer.storage import files

_HELD_OUT: Final = (features.VALIDATION, features.CALIBRATION, features.TEST)
_RANK: Final = {features.UNLABELLED: 0, **{split: i for i, split in enumerate(_HELD_OUT, 2)}}


def find_near_copies(
    facts: Iterable[PartFacts],
    requests: Iterable[tuple[int, bytes]],
    output: str,
    is_grouped: bool,
) -> Iterator[tuple[int, bytes]]:
    """Finds near-duplicates among the images that are no dropped copies.

    Args:
        facts: The facts of all parts.
        requests: What `find_copies` yielded for all partitions.
        output: The artifact's folder.
        is_grouped: Whether the images of a group share a split.

    Yields:
        Number of a part, and packed `NEAR` rows in the order of the part's rows.
    """
    facts = list(facts)
    named = {split for part in facts for split in part.named_splits}
    known = sorted(part for part in facts if part.bounds[-1])
    numbers = [part.number for part in known]
    lengths = [part.bounds[-1] for part in known]
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    usable = np.ones(starts[-1], bool)
    place = {number: int(start) for number, start in zip(numbers, starts, strict=False)}
    for number, packed in requests:
        copies = np.frombuffer(packed, duplicates.REQUEST)
        rows = copies["row"][copies["role"] == duplicates.DROPPED]
        usable[place[number] + rows.astype(np.int64)] = False
    with tempfile.TemporaryDirectory(dir=_room(output)) as folder:
        columns = _gathered(numbers, int(starts[-1]), output, folder)
        groups = find_near_groups(columns["thumb"], columns["words"], usable)
        slots = np.array(columns["slot"][groups.images])
        found = np.empty(len(groups.images), NEAR)
        found["slot"] = _placed(groups, slots, named) if is_grouped else slots
        found["group"] = columns["digest"][groups.groups]
        found["family"] = columns["digest"][groups.families]
        found["distance"] = groups.distances
        found["represents"] = groups.images == groups.groups
        found["crosses"] = _crossing(groups, slots, named)
    cuts = np.searchsorted(groups.images, starts)
    for number, start, begin, end in zip(numbers, starts, cuts, cuts[1:], strict=False):
        if end > begin:
            part = found[begin:end]
            part["row"] = groups.images[begin:end] - start
            yield number, part.tobytes()


def _room(output: str) -> str | None:
    """Returns the folder for temporary files: next to the output if it is on this machine."""
    return None if files.is_remote(output) else f"{output}/{STAGING}"


def _gathered(numbers: list[int], total: int, output: str, folder: str) -> dict[str, np.ndarray]:
    """Concatenates the rows of all parts, and maps each of their columns from a file."""
    columns = {name: Path(folder, name) for name in NEAR_ROW.names or ()}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(path.open("wb")) for name, path in columns.items()}
        for content in files.read_each(f"{output}/{near_file(number)}" for number in numbers):
            rows = np.frombuffer(content, NEAR_ROW)
            for name, file in opened.items():
                file.write(rows[name].tobytes())
    if not total:
        return {name: np.empty(0, NEAR_ROW)[name] for name in columns}
    return {
        name: np.memmap(path, NEAR_ROW[name].base, mode="r", shape=(total, *NEAR_ROW[name].shape))
        for name, path in columns.items()
    }


def _sides(slots: np.ndarray, named: Set[str]) -> np.ndarray:
    """Returns the number of each image's split; train and unlabelled count as one."""
    order = (features.TRAIN, *_HELD_OUT)
    table = [
        0 if (split := final_split(slot, named)) == features.UNLABELLED else order.index(split)
        for slot in range(len(SLOTS))
    ]
    return np.array(table)[slots]


def _crossing(groups: NearGroups, slots: np.ndarray, named: Set[str]) -> np.ndarray:
    """Returns which images' groups lie in more than one split."""
    _, group = np.unique(groups.groups, return_inverse=True)
    sides = _sides(slots, named)
    number = int(group.max(initial=-1)) + 1
    lowest, highest = np.full(number, len(SLOTS)), np.full(number, -1)
    np.minimum.at(lowest, group, sides)
    np.maximum.at(highest, group, sides)
    return (lowest != highest)[group]


def _placed(groups: NearGroups, slots: np.ndarray, named: Set[str]) -> np.ndarray:
    """Returns the slots that images go to, or `DROP`.

    Images that may be in any split go to that of their family's first one. Then every image is
    dropped that is near, or in a group with, one that the source names for a held-out split, test
    before calibration before validation, or that is unlabelled and near a held-out one.
    """
    pool = np.array([name.startswith(POOL) for name in SLOTS])[slots]
    _, family = np.unique(groups.families, return_inverse=True)
    number = len(slots)
    first = np.full(number + 1, number)
    np.minimum.at(first, family[pool], np.flatnonzero(pool))
    target = slots.copy()
    target[pool] = slots[first[family[pool]]]
    rank = np.array([_RANK.get(name, 1) for name in SLOTS])[slots]
    held_out = _sides(target, named) > 0
    # What an image meets: its direct neighbours, and all of its group.
    _, group = np.unique(groups.groups, return_inverse=True)
    met_rank, met_held_out = np.zeros(number + 1, np.int64), np.zeros(number + 1, bool)
    np.maximum.at(met_rank, group, rank)
    np.logical_or.at(met_held_out, group, held_out)
    highest, meets = met_rank[group], met_held_out[group]
    local = np.searchsorted(groups.images, groups.links)
    for one, two in (local.T, local.T[::-1]):
        np.maximum.at(highest, one, rank[two])
        np.logical_or.at(meets, one, held_out[two])
    is_unlabelled = slots == UNLABELLED_SLOT
    dropped = np.where(is_unlabelled, meets, (highest > rank) & (highest > 1))
    return np.where(dropped, DROP, target).astype(np.uint8)
