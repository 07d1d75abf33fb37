"""Builds the import graph of the project's modules from their source, without importing them.

The digests of the steps' code and the test of the architecture use it.
"""

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Final

PACKAGES: Final = ("pipeline", "components", "serving", "trainer")
"""The project's packages, from the highest layer to the lowest."""

_QUOTED_NAME: Final = re.compile(r"""["'](\w+(?:\.\w+)+)["']""")


def imported_names(
    tree: ast.Module, package: str = "", *, type_checking: bool = False
) -> Iterator[str]:
    """Finds the names that a module imports, at any level of nesting.

    Args:
        tree: The parsed module.
        package: Package of the module, for relative imports.
        type_checking: Whether to include imports under `if TYPE_CHECKING:`.

    Yields:
        Dotted names: `a.b` for `import a.b` and for `from a import b`, which may be a module or
        one of its attributes.
    """
    for node in _statements(tree, type_checking=type_checking):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            origin = importlib.util.resolve_name(relative, package)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


class ImportGraph:
    """The modules of some packages and what each of them imports.

    Args:
        root: Folder that contains the packages.
        packages: Names of the top-level packages.
    """

    def __init__(self, root: Path, packages: Iterable[str] = PACKAGES) -> None:
        self.files: Mapping[str, Path] = {
            _module_name(path.relative_to(root)): path
            for package in packages
            for path in sorted((root / package).rglob("*.py"))
        }

    @cached_property
    def trees(self) -> Mapping[str, ast.Module]:
        """The syntax tree of each module."""
        return {module: _parse(text) for module, text in self._texts.items()}

    @cached_property
    def _texts(self) -> Mapping[str, str]:
        return {module: path.read_text(encoding="utf-8") for module, path in self.files.items()}

    @cached_property
    def imports(self) -> Mapping[str, frozenset[str]]:
        """The modules that each module imports, except under `if TYPE_CHECKING:`."""
        return {module: self._imports_of(module) for module in self.files}

    @cached_property
    def references(self) -> Mapping[str, frozenset[str]]:
        """The modules that each module names in a string, to import or start them by name."""
        return {module: self._references_of(module) for module in self.files}

    def closure(self, modules: Iterable[str]) -> list[str]:
        """Follows imports and references to all code that the given modules may run.

        Args:
            modules: Names of the modules to start from.

        Returns:
            Sorted names of the modules, of those that they use directly or indirectly, and of the
            packages that contain them.

        Raises:
            KeyError: A module does not exist.
        """
        found: set[str] = set()
        waiting = list(modules)
        while waiting:
            module = waiting.pop()
            if module in found:
                continue
            found.add(module)
            waiting += self._imports_of(module) | self._references_of(module)
            if "." in module:
                # Python runs the `__init__` of a package before any of its modules.
                waiting.append(module.rpartition(".")[0])
        return sorted(found)

    def _imports_of(self, module: str) -> frozenset[str]:
        is_package = self.files[module].name == "__init__.py"
        package = module if is_package else module.rpartition(".")[0]
        names = _imported_names(self._texts[module], package)
        found = {known for name in names if (known := self._resolve(name)) is not None}
        return frozenset(found - {module})

    def _references_of(self, module: str) -> frozenset[str]:
        return _quoted_names(self._texts[module]) & self.files.keys()

    def _resolve(self, name: str) -> str | None:
        """Returns the module that a dotted name belongs to; None if it is not in the project."""
        while name and name not in self.files:
            name = name.rpartition(".")[0]
        return name or None


# Cached by content, because graphs of copies of the project share nearly all of it.
@cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def _imported_names(text: str, package: str) -> frozenset[str]:
    return frozenset(imported_names(_parse(text), package))


@cache
def _quoted_names(text: str) -> frozenset[str]:
    """Finds the quoted words that could name a module."""
    return frozenset(_QUOTED_NAME.findall(text))


def _statements(node: ast.AST, *, type_checking: bool) -> Iterator[ast.AST]:
    """Yields all statements below a node; skips `if TYPE_CHECKING:` unless requested."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # Expressions hold no statements.
        yield child
        if isinstance(child, ast.If) and not type_checking and _is_type_checking(child.test):
            for other in child.orelse:
                yield other
                yield from _statements(other, type_checking=type_checking)
        else:
            yield from _statements(child, type_checking=type_checking)


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
