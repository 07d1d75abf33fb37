"""Near-duplicates: invariances of the hash, candidates, alignment, groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.image_checks.model_pixels import fit
from components.near_duplicates import candidates
from components.near_duplicates.alignment import distances
from components.near_duplicates.finding import NearGroups, find_near_groups
from components.near_duplicates.perceptual_hash import (
    SIDE,
    WINDOWS,
    WORDS,
    hashes,
    is_blank,
    thumbnails,
)
from tests.near_copies import COPIES, picture
from trainer.config import ImageConfig
from trainer.errors import InputError

IMAGE = ImageConfig(height=48, width=48)


def thumbs_of(pictures: list[np.ndarray]) -> np.ndarray:
    """Thumbnails, by way of the model's pixels."""
    return thumbnails(np.stack([fit(pixels, IMAGE) for pixels in pictures]))


def groups_of(thumbs: np.ndarray) -> NearGroups:
    return find_near_groups(thumbs, hashes(thumbs), np.ones(len(thumbs), bool))


def partition(found: NearGroups, names: np.ndarray) -> set[frozenset[int]]:
    """Groups as sets of names, which do not depend on the order of the images."""
    return {
        frozenset(names[found.images[found.groups == group]].tolist())
        for group in np.unique(found.groups)
    }


def unequal_bits(one: np.ndarray, two: np.ndarray) -> int:
    """Fewest unequal bits of a whole hash and one of the windows of another."""
    return int(candidates.popcount(one ^ two[:1]).sum(axis=1, dtype=int).min())


def test_thumbnails_of_colour_and_grey_average_areas() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 2 * SIDE, SIDE, 1), np.uint8)
    found = thumbnails(grey)
    blocks = grey[..., 0].reshape(3, SIDE, 2, SIDE).mean(axis=2)
    padded = np.pad(blocks, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    expected = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    assert np.abs(found - expected).max() <= 0.5
    assert np.array_equal(thumbnails(np.repeat(grey, 3, axis=3)), found)


@pytest.mark.parametrize("copy", COPIES)
def test_hash_and_alignment_withstand(copy: object) -> None:
    assert callable(copy)
    sources = [picture(seed) for seed in range(40)]
    thumbs, copies = thumbs_of(sources), thumbs_of([copy(pixels) for pixels in sources])
    bits = [unequal_bits(two, one) for one, two in zip(hashes(thumbs), hashes(copies), strict=True)]
    others = [
        unequal_bits(two, one)
        for one, two in zip(hashes(thumbs), np.roll(hashes(copies), 1, axis=0), strict=True)
    ]
    assert np.mean(np.array(bits) <= 34) > 0.95
    assert min(others) > 34
    start = np.zeros(40, np.uint8)
    assert np.isfinite(distances(thumbs, copies, start)).mean() > 0.9
    # The sharper image may be either one.
    assert np.isfinite(distances(copies, thumbs, start)).mean() > 0.9
    assert np.isinf(distances(thumbs, np.roll(copies, 1, axis=0), start)).all()


def test_hashes_do_not_depend_on_the_batch() -> None:
    thumbs = thumbs_of([picture(seed) for seed in range(9)])
    one_by_one = np.concatenate([hashes(thumbs[i : i + 1]) for i in range(9)])
    assert np.array_equal(hashes(thumbs), one_by_one)
    assert one_by_one.shape == (9, WINDOWS, WORDS)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_popcount(values: list[int]) -> None:
    found = candidates.popcount(np.array(values, np.uint64))
    assert found.tolist() == [value.bit_count() for value in values]


def test_groups_are_those_of_the_sources_in_any_order() -> None:
    pictures, sources = [], []
    for seed in range(30):
        pictures += [picture(seed), *(copy(picture(seed)) for copy in COPIES[: seed % 6])]
        sources += [seed] * (1 + seed % 6)
    thumbs, names = thumbs_of(pictures), np.arange(len(pictures))
    source = np.array(sources)
    expected = {
        frozenset(np.flatnonzero(source == seed).tolist()) for seed in range(30) if seed % 6
    }
    assert partition(groups_of(thumbs), names) == expected
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(pictures))
        found = groups_of(thumbs[order])
        assert partition(found, order) == expected
        # Nobody is in the family of another source.
        assert np.array_equal(source[order[found.images]], source[order[found.families]])
        assert (found.distances[found.images == found.groups] == 0).all()


def test_blank_images_are_no_copies_of_each_other() -> None:
    levels = np.arange(200, dtype=np.uint8)[:, None, None, None]
    thumbs = thumbnails(np.broadcast_to(levels, (200, 48, 48, 1)))
    assert is_blank(thumbs).all()
    found = groups_of(thumbs)
    assert len(found.images) == len(found.links) == 0


def test_thousands_of_equal_hashes_are_one_group_of_few_candidates() -> None:
    thumbs = np.concatenate([np.repeat(thumbs_of([picture(0)]), 600, axis=0),
                             thumbs_of([picture(seed) for seed in range(1, 30)])])  # fmt: skip
    pairs = candidates.similar_pairs(hashes(thumbs), np.arange(len(thumbs)))
    assert len(pairs.whole) < 40 * len(thumbs)
    found = groups_of(thumbs)
    assert np.array_equal(found.images, np.arange(600))
    assert len(np.unique(found.families)) == len(np.unique(found.groups)) == 1


def test_no_group_is_a_chain() -> None:
    # Each frame is near the next one, and the last one is far from the first.
    wide = picture(3, side=160)
    frames = [wide[50:120, start : start + 70] for start in range(0, 60)]
    found = groups_of(thumbs_of(frames))
    assert len(np.unique(found.families)) == 1
    assert len(np.unique(found.groups)) > 5
    thumbs = thumbs_of(frames)
    members = found.images[found.images != found.groups]
    representatives = found.groups[found.images != found.groups]
    start = np.zeros(len(members), np.uint8)
    one = distances(thumbs[representatives], thumbs[members], start)
    two = distances(thumbs[members], thumbs[representatives], start)
    assert np.isfinite(np.minimum(one, two)).mean() > 0.95


def test_more_images_than_a_candidate_can_name_get_one_line() -> None:
    thumbs = np.broadcast_to(np.uint8(0), (candidates.MOST_IMAGES + 1, SIDE, SIDE))
    words = np.broadcast_to(np.uint64(0), (len(thumbs), WINDOWS, WORDS))
    with pytest.raises(InputError, match="too many to look for near-duplicates"):
        find_near_groups(thumbs, words, np.broadcast_to(True, len(thumbs)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_random_thumbnails_never_fail(number: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    thumbs = random.integers(0, random.integers(1, 256) + 1, (number, SIDE, SIDE)).astype(np.uint8)
    usable = random.random(number) < 0.8
    found = find_near_groups(thumbs, hashes(thumbs), usable)
    assert usable[found.images].all()
