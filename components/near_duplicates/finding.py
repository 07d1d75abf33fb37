"""Finds near-duplicates among hashed images, and groups them.

Ingest (`image_example_gen/near_copies.py`) and the bulk job call it. Thumbnails and hashes may be
mapped from files; what is held in memory is about 100 bytes an image.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from components.near_duplicates.alignment import distances
from components.near_duplicates.candidates import MOST_IMAGES, Candidates, similar_pairs
from components.near_duplicates.perceptual_hash import is_blank
from trainer.cores import usable_cores
from trainer.errors import InputError

_AT_A_TIME: Final = 512
_BLANKS_AT_A_TIME: Final = 1 << 14


@dataclass(frozen=True)
class NearGroups:
    """Holds the images that have near-duplicates; all arrays have one entry for each of these.

    Attributes:
        images: int [m], indices, ascending.
        groups: int [m], index of the image that represents the group. Every member is near it.
        families: int [m], index of the first image of the family. Families are what links connect:
            an image in the middle of two groups makes one family of both.
        distances: float32 [m], from the representative, see `alignment.distances`.
        links: int [l, 2], pairs of indices of images that are near each other.
    """

    images: np.ndarray
    groups: np.ndarray
    families: np.ndarray
    distances: np.ndarray
    links: np.ndarray


def find_near_groups(thumbs: np.ndarray, words: np.ndarray, usable: np.ndarray) -> NearGroups:
    """Finds and groups near-duplicates.

    Args:
        thumbs: uint8 [n, SIDE, SIDE], see `perceptual_hash.thumbnails`; may be mapped from a file.
        words: uint64 [n, WINDOWS, WORDS], see `perceptual_hash.hashes`; likewise.
        usable: bool [n], the images to compare. Blank ones are left out in any case.

    Returns:
        The groups. They depend on the order of the images only where one image may join several.

    Raises:
        InputError: if there are more than `candidates.MOST_IMAGES`.
    """
    if len(usable) > MOST_IMAGES:
        raise InputError(
            f"{len(usable):,} images are too many to look for near-duplicates, at most"
            f" {MOST_IMAGES:,} can be compared; switch it off or divide the input"
        )
    usable = usable.copy()
    for begin in range(0, len(usable), _BLANKS_AT_A_TIME):
        some = slice(begin, begin + _BLANKS_AT_A_TIME)
        usable[some] &= ~is_blank(thumbs[some])
    pairs = similar_pairs(words, np.flatnonzero(usable))
    with ThreadPoolExecutor(usable_cores()) as pool:
        confirmed = _confirm(thumbs, pairs, pool)
        families = _families(confirmed, len(thumbs))
        to_hubs = _pairs_with_hubs(confirmed, families)
        confirmed = np.concatenate([confirmed, _confirm(thumbs, to_hubs, pool)])
    return _grouped(confirmed, _families(confirmed, len(thumbs)))


_LINK: Final = np.dtype([("one", "<u4"), ("two", "<u4"), ("distance", "<f4")])


def _confirm(thumbs: np.ndarray, pairs: Candidates, pool: ThreadPoolExecutor) -> np.ndarray:
    """Returns the pairs that are near, as `_LINK`."""

    def measure(begin: int) -> np.ndarray:
        whole, other, window = (column[begin : begin + _AT_A_TIME] for column in pairs)
        measured = distances(thumbs[whole], thumbs[other], window)
        near = np.isfinite(measured)
        links = np.empty(int(near.sum()), _LINK)
        links["one"] = np.minimum(whole, other)[near]
        links["two"] = np.maximum(whole, other)[near]
        links["distance"] = measured[near]
        return links

    parts = pool.map(measure, range(0, len(pairs.whole), _AT_A_TIME))
    return np.concatenate([np.empty(0, _LINK), *parts])


def _families(links: np.ndarray, number: int) -> np.ndarray:
    """Returns for each image the lowest index that links lead to: int [number]."""
    # Only processes that find near-duplicates load SciPy.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array(
        (np.ones(len(links), bool), (links["one"], links["two"])), shape=(number, number)
    )
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    return first[labels]


def _degrees(links: np.ndarray, number: int) -> np.ndarray:
    return np.bincount(np.concatenate([links["one"], links["two"]]), minlength=number)


def _pairs_with_hubs(links: np.ndarray, families: np.ndarray) -> Candidates:
    """Returns the pairs of each family's best-linked image with those it has no link with."""
    degrees = _degrees(links, len(families))
    members = np.flatnonzero(degrees)
    order = members[np.lexsort((members, -degrees[members], families[members]))]
    starts = np.append(True, families[order][1:] != families[order][:-1])[: len(order)]
    hubs = np.zeros(len(families), np.int64)
    hubs[families[order[starts]]] = order[starts]
    hub = hubs[families[members]]
    known = np.concatenate([_packed(links["one"], links["two"]), _packed(members, members)])
    missing = ~np.isin(_packed(np.minimum(hub, members), np.maximum(hub, members)), known)
    return Candidates(hub[missing], members[missing], np.zeros(int(missing.sum()), np.uint8))


def _packed(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return one.astype(np.uint64) << np.uint64(32) | two.astype(np.uint64)


def _grouped(links: np.ndarray, families: np.ndarray) -> NearGroups:
    """Divides families into stars: an image, and those that are near it.

    In each round every image whose links are more than those of all its neighbours becomes a
    representative, and its neighbours join it; the images of these groups leave the graph.
    """
    number = len(families)
    degrees = _degrees(links, number)
    members = np.flatnonzero(degrees)
    order = members[np.lexsort((members, -degrees[members]))]
    rank = np.full(number, number, np.int64)
    rank[order] = np.arange(len(order))
    groups = np.arange(number)
    distance = np.zeros(number, np.float32)
    one = np.concatenate([links["one"], links["two"]]).astype(np.int64)
    two = np.concatenate([links["two"], links["one"]]).astype(np.int64)
    length = np.concatenate([links["distance"], links["distance"]])
    while len(one):
        best = np.full(number, number, np.int64)
        np.minimum.at(best, one, rank[two])
        is_centre = rank < best
        joins = is_centre[two]
        # Of several representatives the one with most links; there may be none of equal rank.
        by_rank = np.lexsort((rank[two[joins]], one[joins]))
        joining, to = one[joins][by_rank], two[joins][by_rank]
        first = np.append(True, joining[1:] != joining[:-1])[: len(joining)]
        groups[joining[first]] = to[first]
        distance[joining[first]] = length[joins][by_rank][first]
        gone = is_centre.copy()
        gone[joining] = True
        gone &= degrees > 0
        rest = ~gone[one] & ~gone[two]
        one, two, length = one[rest], two[rest], length[rest]
    return NearGroups(
        images=members,
        groups=groups[members],
        families=families[members],
        distances=distance[members],
        links=np.stack([links["one"], links["two"]], axis=1).astype(np.int64),
    )
