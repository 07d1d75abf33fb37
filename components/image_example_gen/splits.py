"""Which split an image belongs to: what the source says, else a hash of the image's content.

Called per batch by `inspection.py`; the last decision falls when all names are known.
"""

from collections.abc import Set
from typing import Final

import numpy as np

from components.image_sources.config import SplitsConfig
from trainer import features

POOL: Final = "pool-"
"""Slots of images that may go to any split; the slot's name ends in the one their hash gives."""

SLOTS: Final = (
    *(POOL + split for split in features.LABELLED_SPLITS),
    features.VALIDATION,
    features.CALIBRATION,
    features.TEST,
    features.UNLABELLED,
)
"""Where an image waits until all units are read. Its place is its number."""

_SLOT: Final = {slot: number for number, slot in enumerate(SLOTS)}
_HASHED: Final = (features.TEST, features.CALIBRATION, features.VALIDATION, features.TRAIN)
UNLABELLED_SLOT: Final = _SLOT[features.UNLABELLED]


def hashed_slots(digests: np.ndarray, config: SplitsConfig) -> np.ndarray:
    """Divides by content: one machine, order or archive format gives what every other does.

    Args:
        digests: uint8 [n, 32], SHA-256.
        config: Shares and seed.

    Returns:
        uint8 [n], numbers of pool slots.
    """
    # SplitMix64's finalizer (Steele, Lea and Flood 2014) over digest and seed: another seed gives
    # a division that is independent of this one.
    mixed = np.ascontiguousarray(digests[:, :8]).view(np.uint64).ravel()
    mixed = mixed ^ np.uint64(config.seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    place = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    # Test comes first and train last: another validation share moves no image in or out of test.
    shares = np.cumsum([config.test, config.calibration, config.validation])
    slots = np.array([_SLOT[POOL + split] for split in _HASHED], np.uint8)
    return slots[np.searchsorted(shares, place, side="right")]


def choose_slots(
    digests: np.ndarray,
    labels: list[str | None],
    named: list[str | None],
    config: SplitsConfig,
) -> np.ndarray:
    """Gives every image its slot.

    Args:
        digests: uint8 [n, 32], SHA-256.
        labels: Class names, None where unknown: those wait among the unlabelled.
        named: Splits that the source names.
        config: Shares and seed.

    Returns:
        uint8 [n], numbers of slots.
    """
    slots = hashed_slots(digests, config)
    if config.source == "auto" and set(named) - {None, features.TRAIN}:
        fixed = [
            -1 if split is None or split == features.TRAIN else _SLOT[split] for split in named
        ]
        column = np.array(fixed, np.int16)
        slots = np.where(column < 0, slots, column).astype(np.uint8)
    missing = [label is None for label in labels]
    slots[missing] = UNLABELLED_SLOT
    return slots


def final_split(slot: int, named: Set[str]) -> str:
    """Turns a slot into a split once it is known which splits the source names.

    Args:
        slot: Its number.
        named: All splits that any unit's source named.

    Returns:
        The split. What hashing would add to a split that the source names itself stays in train.
    """
    name = SLOTS[slot]
    if not name.startswith(POOL):
        return name
    split = name.removeprefix(POOL)
    return features.TRAIN if split in named else split
