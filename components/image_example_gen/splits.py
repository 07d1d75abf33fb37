"""Assigns images to splits: as the source names them, otherwise by a hash of the content.

`inspection.py` calls it per batch; the split is final once all named splits are known.
"""

from collections.abc import Set
from typing import Final

import numpy as np

from components.image_sources.config import SplitsConfig
from trainer.data import features

POOL: Final = "pool-"
"""Prefix of the slots whose images may go to any split; the suffix is the split by hash."""

SLOTS: Final = (
    *(POOL + split for split in features.LABELLED_SPLITS),
    features.VALIDATION,
    features.CALIBRATION,
    features.TEST,
    features.UNLABELLED,
)
"""Slots in which images wait until all units are read; a slot's number is its index here."""

_SLOT: Final = {slot: number for number, slot in enumerate(SLOTS)}
_HASHED: Final = (features.TEST, features.CALIBRATION, features.VALIDATION, features.TRAIN)
UNLABELLED_SLOT: Final = _SLOT[features.UNLABELLED]


def hashed_slots(digests: np.ndarray, config: SplitsConfig) -> np.ndarray:
    """Splits by content, independently of machine, order and archive format.

    Args:
        digests: uint8 [n, 32], SHA-256.
        config: Shares and seed.

    Returns:
        uint8 [n], numbers of pool slots.
    """
    # SplitMix64's finalizer (Steele, Lea and Flood 2014) over digest and seed makes the splits of
    # different seeds independent.
    mixed = np.ascontiguousarray(digests[:, :8]).view(np.uint64).ravel()
    mixed = mixed ^ np.uint64(config.seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    place = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    # Test comes first and train last, so changing the validation share never changes test.
    shares = np.cumsum([config.test, config.calibration, config.validation])
    slots = np.array([_SLOT[POOL + split] for split in _HASHED], np.uint8)
    return slots[np.searchsorted(shares, place, side="right")]


def choose_slots(
    digests: np.ndarray,
    labels: list[str | None],
    named: list[str | None],
    config: SplitsConfig,
) -> np.ndarray:
    """Assigns a slot to every image.

    Args:
        digests: uint8 [n, 32], SHA-256.
        labels: Class names; None if unknown, which assigns the slot of unlabelled images.
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
    """Maps a slot to a split once all splits that the source names are known.

    Args:
        slot: The number of the slot.
        named: All splits that the source of any unit named.

    Returns:
        The split. Images that hashing would add to a split named by the source stay in train.
    """
    name = SLOTS[slot]
    if not name.startswith(POOL):
        return name
    split = name.removeprefix(POOL)
    return features.TRAIN if split in named else split
