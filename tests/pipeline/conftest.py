"""What the tests of the pipeline share."""

from pathlib import Path

import pytest

from tests.pipeline import small_training


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples and the Transform graph, as the steps before the Trainer write them."""
    return small_training.make_inputs(tmp_path_factory.mktemp("inputs"))
