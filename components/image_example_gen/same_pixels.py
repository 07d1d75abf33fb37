"""Counts held-out images whose pixels are also those of an image in another split.

Exact copies are found by the digest of the file. The same picture saved again without loss, or with
other metadata, has another digest; a model that has learned it is tested on what it knows. The
parts write 8 bytes per image, a hash of the pixels that findings need anyway.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from components.image_example_gen.finishing import GONE, PLACES
from components.image_example_gen.parts import pixels_file
from trainer.data import features
from trainer.storage import files

_AT_A_TIME: Final = 8_000_000
"""Keys that are compared in memory."""


def count_same_pixels(output: str, images: int) -> Counter[str]:
    """Counts the images of held-out splits whose pixels another split has, too.

    Args:
        output: The artifact's folder, with the staged files of all parts.
        images: About how many images there are.

    Returns:
        Numbers by split.
    """
    total: Counter[str] = Counter()
    passes = 1 + images // _AT_A_TIME
    numbers = sorted(map(int, files.list_names(f"{output}/{PLACES}")))
    for each in range(passes):
        keys, places = [np.empty(0, np.uint64)], [np.empty(0, np.uint8)]
        for number in numbers:
            packed, placed = files.read_each(
                [f"{output}/{pixels_file(number)}", f"{output}/{PLACES}/{number}"]
            )
            key = np.frombuffer(packed, "<u8")
            chosen = key % passes == each
            keys.append(key[chosen])
            places.append(np.frombuffer(placed, np.uint8)[chosen])
        total += images_beside(np.concatenate(keys), np.concatenate(places), features.SPLITS)
    return total


def images_beside(keys: np.ndarray, places: np.ndarray, splits: Sequence[str]) -> Counter[str]:
    """Counts the images of held-out splits whose key occurs in another split.

    Args:
        keys: uint64 [n]; 0 is compared with none.
        places: uint8 [n]: index in `splits`, or `GONE`.
        splits: Names of the splits; `train` and `unlabelled` count as one.
    """
    used = (keys != 0) & (places != GONE)
    learned = [splits.index(features.TRAIN), splits.index(features.UNLABELLED)]
    side = np.where(np.isin(places[used], learned), learned[0], places[used])
    order = np.argsort(keys[used], kind="stable")
    ordered, side = keys[used][order], side[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    if not len(starts):
        return Counter()
    lengths = np.diff(np.append(starts, len(ordered)))
    differs = np.minimum.reduceat(side, starts) != np.maximum.reduceat(side, starts)
    counted = side[np.repeat(differs, lengths)]
    counts = {split: int((counted == place).sum()) for place, split in enumerate(splits)}
    return Counter(
        {split: n for split, n in counts.items() if n and splits.index(split) not in learned}
    )
