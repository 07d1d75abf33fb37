"""What loads when called: a module's code must run at its first use, and not earlier."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.tfx_api import load_when_called

PACKAGE, MODULE = "vaeline_lazy_package", "vaeline_lazy_package.clients"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "clients.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('loaded').touch()\nANSWER = 42\n"
    )
    (folder / "user.py").write_text(f"from {PACKAGE} import clients\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


def test_the_code_runs_at_the_first_use_of_a_name(tmp_path: Path) -> None:
    load_when_called(MODULE)
    from vaeline_lazy_package import user  # type: ignore[import-not-found]

    clients, loaded = sys.modules[MODULE], tmp_path / PACKAGE / "loaded"
    assert clients.__file__ == str(tmp_path / PACKAGE / "clients.py")
    assert not hasattr(clients, "__wrapped__")
    assert not loaded.exists()

    assert user.clients.ANSWER == 42
    assert loaded.exists()
    with pytest.raises(AttributeError, match="no attribute 'QUESTION'"):
        _ = user.clients.QUESTION


def test_a_loaded_module_stays() -> None:
    loaded = importlib.import_module(MODULE)
    load_when_called(MODULE)
    assert sys.modules[MODULE] is loaded


def test_an_absent_module_is_no_error() -> None:
    load_when_called(f"{PACKAGE}.absent")
    assert f"{PACKAGE}.absent" not in sys.modules
