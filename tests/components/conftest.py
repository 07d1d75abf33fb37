"""A small model for all tests of components."""

from pathlib import Path

import pytest

from tests.components.bulk_inference.model_fixture import export_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey 8 x 8 model of ten classes; `copy_model` copies it for tests that change it."""
    return export_model(tmp_path_factory.mktemp("model") / "1")
