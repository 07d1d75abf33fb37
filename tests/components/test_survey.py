"""A look at an input: what a sample and the whole say, without a word written to disk."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from components.image_example_gen.survey import InputSurvey, survey
from components.image_sources.config import InputConfig
from tests import archives
from trainer.errors import InputError


def look(path: Path, *, seconds: float = 10.0, full: bool = False, **units: Any) -> InputSurvey:
    config = InputConfig.model_validate(
        {"paths": str(path), "units": units, "limits": {"max_bytes": 100_000}}
    )
    # Each look at the clock is a second later.
    clock = itertools.count()
    return survey(config, full=full, seconds=seconds, now=lambda: float(next(clock)))


@pytest.mark.parametrize("name", ["tree", "a.zip", "a.tar"])
def test_a_small_input_is_read_as_a_whole(tmp_path: Path, name: str) -> None:
    bad = {name: data for name, (data, _) in archives.defects().items()}
    files = {**archives.classes(20), **bad, "cat/.hidden.png": archives.png()}
    path = archives.write(tmp_path / name, files)
    found = look(path, seconds=1000)
    assert found.is_complete
    assert found.members == len(files) + found.account.ignored.counts["folder"]
    assert found.scale == 1.0
    assert found.account.examples.total() == 60
    assert found.account.rejected.total() == len(bad)
    assert found.account.ignored.counts["hidden"] == 1
    assert found.examples_bytes > found.account.bytes


@pytest.mark.parametrize("name", ["tree", "a.zip", "a.tar"])
def test_a_sample_stops_in_time_and_estimates_the_rest(tmp_path: Path, name: str) -> None:
    path = archives.write(tmp_path / name, archives.classes(200))
    found = look(path, seconds=3, members=50, batch=10)
    read = found.account.images_in
    assert not found.is_complete
    assert 10 <= read < 600
    assert found.members == pytest.approx(600, rel=0.0 if name != "a.tar" else 0.6)
    assert found.scale == pytest.approx(found.members / read)
    whole = look(path, full=True, members=50, batch=10)
    assert whole.is_complete
    assert whole.members == whole.account.images_in == 600


def test_an_empty_input_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        look(tmp_path)
