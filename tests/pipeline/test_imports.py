"""The static reader of imports."""

import ast
from pathlib import Path

import pytest

from pipeline.imports import ImportGraph, imported_names


@pytest.fixture
def graph(tmp_path: Path) -> ImportGraph:
    """A project of one package, `app`, with a module for each way to use another one."""
    sources = {
        "app/__init__.py": "",
        "app/inner/__init__.py": "import app.of_the_package",
        "app/inner/module.py": "from . import sibling",
        "app/inner/sibling.py": "",
        "app/of_the_package.py": "",
        "app/plain.py": "import app.leaf",
        "app/leaf.py": "VALUE = 1",
        "app/attribute.py": "from app.leaf import VALUE",
        "app/submodule.py": "from app import leaf",
        "app/late.py": "def work():\n    from app import plain",
        "app/by_name.py": "COMMAND = ['python', '-m', 'app.leaf', 'app', 'app.leaf.VALUE']",
        "app/typed.py": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from app import leaf\nelse:\n    from app import plain"
        ),
    }
    for name, source in sources.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return ImportGraph(tmp_path, ["app"])


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("app.plain", {"app.leaf"}),
        ("app.attribute", {"app.leaf"}),
        ("app.submodule", {"app.leaf"}),
        ("app.late", {"app.plain"}),
        ("app.by_name", set()),
        ("app.typed", {"app.plain"}),
        ("app.inner", {"app.of_the_package"}),
        ("app.inner.module", {"app.inner.sibling"}),
    ],
)
def test_every_form_of_import_is_found(graph: ImportGraph, module: str, imported: set[str]) -> None:
    assert graph.imports[module] == imported


def test_a_module_named_in_a_string_is_a_reference(graph: ImportGraph) -> None:
    assert graph.references["app.by_name"] == {"app.leaf"}
    assert graph.references["app.plain"] == set()


@pytest.mark.parametrize(
    ("module", "closure"),
    [
        ("app.late", ["app", "app.late", "app.leaf", "app.plain"]),
        ("app.by_name", ["app", "app.by_name", "app.leaf"]),
        (
            "app.inner.module",
            ["app", "app.inner", "app.inner.module", "app.inner.sibling", "app.of_the_package"],
        ),
    ],
)
def test_a_closure_holds_all_that_may_run(
    graph: ImportGraph, module: str, closure: list[str]
) -> None:
    assert graph.closure([module]) == closure


def test_a_module_that_does_not_exist_is_an_error(graph: ImportGraph) -> None:
    with pytest.raises(KeyError, match=r"app\.missing"):
        graph.closure(["app.missing"])


def test_imports_for_types_alone_are_found_on_request() -> None:
    tree = ast.parse("if typing.TYPE_CHECKING:\n    import tfx.v1\nimport numpy as np")
    assert list(imported_names(tree)) == ["numpy"]
    assert set(imported_names(tree, type_checking=True)) == {"numpy", "tfx.v1"}
