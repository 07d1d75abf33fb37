"""Ingest accepts of damaged files only what the served graph decodes, and to the same pixels.

`python -m benchmarks.fuzz_decoders` does the same for as long as one likes.
"""

from itertools import islice

import pytest

from benchmarks.fuzz_decoders import Comparison, mutants
from benchmarks.image_files import FORMATS

FILES = 500
"""Per format."""


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison()


@pytest.mark.slow
@pytest.mark.parametrize("image_format", FORMATS)
def test_all_readers_agree_on_damaged_files(image_format: str, comparison: Comparison) -> None:
    source = mutants(7, (image_format,))
    before = len(comparison.disagreements)
    for _ in range(0, FILES, 100):
        comparison.compare(list(islice(source, 100)))
    assert comparison.tried[image_format] == FILES
    # Too many rejects would compare nothing.
    assert comparison.accepted[image_format] > FILES // 10
    found = comparison.disagreements[before:]
    shown = [(each.kind, each.mutant.seed, each.mutant.steps, each.detail) for each in found]
    assert not shown[:10]


def test_the_same_seed_gives_the_same_files() -> None:
    first, again, other = (list(islice(mutants(seed), 100)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
