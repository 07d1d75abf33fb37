"""Finds pairs of images with similar hashes, in time and memory linear in their number.

`finding.py` calls it. The hashes are sorted once for each table; only neighbours in the sorted
order that share the leading bits are compared (Manku, Jain and Das Sarma 2007, "Detecting
near-duplicates for web crawling"; Charikar 2002). Thousands of equal hashes cost no more than
others.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from components.near_duplicates.perceptual_hash import WINDOWS, WORDS

_TABLES: Final = 12
_STEP: Final = 20
"""Bits between the starts of two tables' keys; twelve keys of 20 bits hardly overlap in 256."""
_MOST_UNEQUAL: Final = 34
"""Unequal bits, of 256, up to which two hashes are similar: 13 %."""
_NEIGHBOURS: Final = 16
"""Hashes with which one is compared in a table, at most."""
_PARTNERS: Final = 12
"""Candidates of an image that are kept: those with the fewest unequal bits."""
_AT_A_TIME: Final = 1 << 18
_HELD: Final = 32
"""Candidates an image, on average, above which the least similar ones are given up early."""

MOST_IMAGES: Final = 1 << 27
"""Number of images up to which a candidate fits into 64 bits: two indices of 27 bits, the unequal
bits, the window, and whether it is the second image's."""


class Candidates(NamedTuple):
    """Holds candidate pairs as columns of equal length.

    Attributes:
        whole: int64 [m], images of which a window's hash is similar to that of `other`.
        other: int64 [m].
        window: uint8 [m].
    """

    whole: np.ndarray
    other: np.ndarray
    window: np.ndarray


def similar_pairs(words: np.ndarray, usable: np.ndarray) -> Candidates:
    """Finds candidate pairs.

    Args:
        words: uint64 [n, WINDOWS, WORDS]; may be mapped from a file.
        usable: Indices of the images to compare, ascending.

    Returns:
        The candidates, each two images at most once, ordered by their indices.
    """
    # A key that is a little longer than needed to tell all images apart leaves about one in each
    # bucket by chance.
    bits = int(np.clip(np.ceil(np.log2(max(len(usable), 2))) + 1, 10, _STEP + 4))
    codes = np.empty(0, np.uint64)
    for table in range(_TABLES):
        codes = _distinct(np.concatenate([codes, *_neighbours(words, usable, table, bits)]))
        if len(codes) > _HELD * len(usable):
            codes = _most_similar(codes)
    codes = _most_similar(codes)
    low, high = (codes >> _LOW).astype(np.int64), (codes >> _HIGH & _INDEX).astype(np.int64)
    swapped = codes & np.uint64(1) == 1
    window = (codes >> np.uint64(1) & np.uint64(7)).astype(np.uint8)
    return Candidates(np.where(swapped, high, low), np.where(swapped, low, high), window)


_LOW: Final = np.uint64(37)
_HIGH: Final = np.uint64(10)
_UNEQUAL: Final = np.uint64(4)
_INDEX: Final = np.uint64(MOST_IMAGES - 1)


def _neighbours(
    words: np.ndarray, usable: np.ndarray, table: int, bits: int
) -> Iterator[np.ndarray]:
    """Yields the similar pairs of one table, as codes."""
    start = table * _STEP
    keys = _rotated(words[usable, 0], start)
    order = np.argsort(keys, kind="stable")
    keys, images = keys[order], usable[order]
    shift = np.uint64(64 - bits)
    leading = keys >> shift
    for begin in range(0, len(usable), _AT_A_TIME):
        chosen = usable[begin : begin + _AT_A_TIME]
        for window in range(WINDOWS):
            asked = _rotated(words[chosen, window], start)
            # Sorted queries find their places faster, because these lie side by side.
            order = np.argsort(asked)
            asked, queries = asked[order], chosen[order]
            first = np.searchsorted(leading, asked >> shift)
            last = np.searchsorted(leading, asked >> shift, side="right")
            middle = np.searchsorted(keys, asked)
            first = np.maximum(first, np.minimum(middle, last) - _NEIGHBOURS // 2)
            count = np.minimum(last, first + _NEIGHBOURS) - first
            query = np.repeat(np.arange(len(chosen)), count)
            offset = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
            others = images[first[query] + offset]
            whole = queries[query]
            # Of two wholes, one order is enough.
            keep = whole < others if window == 0 else whole != others
            whole, others = whole[keep], others[keep]
            unequal = np.zeros(len(whole), np.uint8)
            for word in range(WORDS):
                unequal += popcount(words[whole, window, word] ^ words[others, 0, word])
                near = unequal <= _MOST_UNEQUAL
                whole, others, unequal = whole[near], others[near], unequal[near]
            code = np.minimum(whole, others).astype(np.uint64) << _LOW
            code |= np.maximum(whole, others).astype(np.uint64) << _HIGH
            code |= unequal.astype(np.uint64) << _UNEQUAL
            yield code | np.uint64(2 * window) | (whole > others).astype(np.uint64)


def _rotated(words: np.ndarray, start: int) -> np.ndarray:
    """Returns the 64 bits of each hash that begin at a bit, as if the hash were a ring."""
    place, offset = divmod(start, 64)
    high = words[:, place % WORDS]
    if not offset:
        return high
    low = words[:, (place + 1) % WORDS]
    return (high << np.uint64(offset)) | (low >> np.uint64(64 - offset))


def popcount(values: np.ndarray) -> np.ndarray:
    """Counts the set bits of uint64 values: uint8 of the same shape.

    NumPy 1 has no `bitwise_count`; the sums in parallel are those of Warren 2012, "Hacker's
    Delight", chapter 5.
    """
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(values)
    one, two, four = np.uint64(1), np.uint64(2), np.uint64(4)
    values = values - ((values >> one) & np.uint64(0x5555555555555555))
    pairs = np.uint64(0x3333333333333333)
    values = (values & pairs) + ((values >> two) & pairs)
    values = (values + (values >> four)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((values * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def _distinct(codes: np.ndarray) -> np.ndarray:
    """Keeps the most similar window of each two images; sorts by image."""
    codes = np.sort(codes)
    both = codes >> _HIGH
    return codes[np.append(True, both[1:] != both[:-1])[: len(codes)]]


def _most_similar(codes: np.ndarray) -> np.ndarray:
    """Keeps the most similar partners of each image."""
    keep = np.zeros(len(codes), bool)
    unequal = codes >> _UNEQUAL & np.uint64(63)
    for shift in (_LOW, _HIGH):
        image = codes >> shift & _INDEX
        order = np.argsort(image << np.uint64(6) | unequal, kind="stable")
        image = image[order]
        starts = np.append(True, image[1:] != image[:-1])[: len(image)]
        place = np.arange(len(image))
        rank = place - np.maximum.accumulate(np.where(starts, place, 0))
        keep[order[rank < _PARTNERS]] = True
    return codes[keep]
