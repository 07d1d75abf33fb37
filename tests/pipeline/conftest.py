"""What the tests of the pipeline share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline import small_training
from tests.pipeline.orchestration.cluster import WarmProcess

PLANTED = {"STORE_TOKEN": "planted-store-token", "AWS_SECRET_ACCESS_KEY": "planted/aws+key=1"}
"""Secrets in the environment of commands; nothing may hold their values afterwards."""


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples and the Transform graph, as the steps before the Trainer write them."""
    return small_training.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmProcess]:
    """Runs commands in forks of a process that has imported TFX."""
    process = WarmProcess(Path(__file__).resolve().parents[2], {**os.environ, **PLANTED})
    yield process
    process.close()
