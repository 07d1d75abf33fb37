"""What the tests of the pipeline share."""

from pathlib import Path

import pytest

from tests.pipeline import small_training

PLANTED = {"STORE_TOKEN": "planted-store-token", "AWS_SECRET_ACCESS_KEY": "planted/aws+key=1"}
"""Secrets in the environment of commands; nothing may hold their values afterwards."""


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples and the Transform graph, as the steps before the Trainer write them."""
    return small_training.make_inputs(tmp_path_factory.mktemp("inputs"))
