"""The house rules that a test can hold: which way imports point, and what they cost."""

import ast
import collections
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csgraph

from pipeline.imports import ImportGraph, imported_names

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("trainer", "serving", "components", "pipeline")
FILE_SYSTEMS = {
    "google.cloud.storage": "trainer/storage/google_store.py",
    "boto3": "trainer/storage/s3_store.py",
    "botocore": "trainer/storage/s3_store.py",
    "apache_beam.io.filesystems": None,
    "apache_beam.io.filesystem": None,
    "fsspec": None,
    "tensorflow.io.gfile": None,
    "etils": None,
    "tfx.dsl.io": None,
    "tfx.utils.io_utils": None,
}
"""Other ways to reach files, and the only module that may import each."""
JOBS = ("pipeline.jobs", "pipeline.labelling")
"""What runs a job for a command."""
TFX_ONLY = ("tfx", "ml_metadata", "tensorflow_data_validation", "tensorflow_model_analysis")


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    package = ".".join(path.parent.relative_to(ROOT).parts)
    yield from imported_names(
        ast.parse(path.read_text(encoding="utf-8")), package, type_checking=True
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in python_files(layer)
        for name in imports_of(path)
        if name.split(".")[0] in above
    ]
    assert wrong == []


def test_files_are_reached_through_one_package() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for layer in LAYERS
        for path in python_files(layer)
        for name in imports_of(path)
        for way, place in FILE_SYSTEMS.items()
        if f"{name}.".startswith(f"{way}.") and str(path.relative_to(ROOT)) != place
    ]
    assert wrong == []


# Modules that may use `tf.io.gfile`. None has to: calls such as `TFRecordDataset` take a path.
GFILE: set[str] = set()


def test_tensorflow_opens_files_only_in_calls_that_take_a_path() -> None:
    using = {
        str(path.relative_to(ROOT))
        for layer in LAYERS
        for path in python_files(layer)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "gfile"
    }
    assert using == GFILE


def test_runs_know_neither_commands_nor_reports() -> None:
    above = (*JOBS, "pipeline.local_runner", "pipeline.orchestration", "pipeline.report")
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in python_files("pipeline/runs")
        for name in imports_of(path)
        if name.startswith(above)
    ]
    assert wrong == []


def test_reports_know_no_jobs() -> None:
    importing = [
        path.name
        for path in python_files("pipeline/report")
        if not set(JOBS).isdisjoint(imports_of(path))
    ]
    assert importing == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports within functions count, those under `if TYPE_CHECKING:` do not."""
    imports = ImportGraph(ROOT).imports
    modules = sorted(imports)
    edges = np.array([[name in imports[module] for name in modules] for module in modules])
    _, component = csgraph.connected_components(edges, connection="strong")
    groups = [
        [modules[at] for at in np.flatnonzero(component == number)]
        for number in np.unique(component)
    ]
    assert [group for group in groups if len(group) > 1] == []


# Names that are defined in several modules on purpose, with the reason.
SHARED_NAMES = {
    # TFX looks for these classes.
    "Executor": "the class that TFX makes of a component's executor module",
    "Driver": "the class that TFX makes of a component's driver module",
    "main": "the entry of a process",
    # One interface with several implementations, called through one of them.
    "plan": "every reader of a format has it; see `image_sources/base.py`",
    "read": "every reader of a format has it; see `image_sources/base.py`",
    "walk": "`files` hands folders on disk to `listing`",
    "overview": "the first section of each report",
    "rejects": "the section about rejects of each report",
    # A command is named as the function that does its work.
    "classify": "the command, and the function that it calls",
    "retrain": "the command, and the function that it calls",
    "run": "the command, and the run of ingest's own processes",
}
# Files of a component are named alike, so that knowing one component is knowing all.
SHARED_MODULES = {"component", "config", "driver", "executor", "transforms"}


def test_a_public_name_has_one_meaning() -> None:
    places = collections.defaultdict(list)
    for module, tree in ImportGraph(ROOT).trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: found for name, found in twice.items() if name not in SHARED_NAMES} == {}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_file_has_a_name_of_its_own_within_its_package(layer: str) -> None:
    # A command's file is named as the module that does its work.
    paths = [path for path in python_files(layer) if path.parent.name != "cli"]
    count = collections.Counter(path.stem for path in paths)
    twice = {name for name, times in count.items() if times > 1}
    assert twice - SHARED_MODULES - {"__init__"} == set()


@pytest.mark.parametrize("folder", ["components", "pipeline", "pipeline/cli", "trainer"])
def test_the_guide_names_every_module_of_a_folder(folder: str) -> None:
    guide = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[`/]([a-z_]+\.py)`", guide))
    missing = {path.name for path in (ROOT / folder).glob("[a-z]*.py")} - named
    assert missing == set()


def test_tfx_stays_at_the_edges() -> None:
    allowed = {"component.py", "executor.py", "strategy.py", "driver.py", "tfx_api.py"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for layer in ("trainer", "serving", "components")
        for path in python_files(layer)
        if path.name not in allowed
        for name in imports_of(path)
        if name.split(".")[0] in TFX_ONLY
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("pipeline.cli", ("tensorflow", "tfx", "apache_beam", "pydantic", "numpy")),
        ("pipeline.config", ("tensorflow", "tfx", "apache_beam")),
        ("components.image_sources.config", ("tensorflow", "tfx")),
        ("trainer.config", ("tensorflow", "tfx")),
        ("trainer.model_card", ("tensorflow", "tfx", "apache_beam", "numpy")),
        ("serving.names", ("tensorflow", "tfx")),
    ],
)
def test_cheap_modules_stay_cheap(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_every_package_is_listed_for_installation() -> None:
    listed = {
        node.value
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for layer in LAYERS
        for path in (ROOT / layer).rglob("__init__.py")
    }
    assert packages - listed == set()


def test_every_folder_with_code_is_a_package() -> None:
    bare = {
        str(path.parent.relative_to(ROOT))
        for layer in LAYERS
        for path in python_files(layer)
        if not (path.parent / "__init__.py").exists()
    }
    assert bare == set()


@pytest.mark.parametrize("stack", ["tfx116", "tfx121"])
def test_pin_files_are_hashed_and_name_no_host(stack: str) -> None:
    text = (ROOT / "requirements" / f"{stack}.txt").read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if "==" in line]
    assert len(pins) > 200
    assert text.count("--hash=sha256:") > len(pins)
    assert "://" not in text
    assert "index-url" not in text


def test_tool_settings_are_readable() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"ruff", "mypy", "pytest", "uv"} <= settings["tool"].keys()


def test_no_source_file_passes_the_ceiling() -> None:
    long = [
        str(path.relative_to(ROOT))
        for layer in LAYERS
        for path in python_files(layer)
        if len(path.read_text(encoding="utf-8").splitlines()) > 350
    ]
    assert long == []


def test_documented_files_and_functions_exist() -> None:
    missing = []
    for page in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"):
        text = page.read_text(encoding="utf-8")
        for name in re.findall(
            r"`((?:pipeline|components|trainer|serving|tests)/[\w/]+\.py)`", text
        ):
            if not (ROOT / name).exists():
                missing.append(f"{page.name}: {name}")
        for function, name in re.findall(r"\| \d+ \| `([\w.]+)` \| `(\w+/[\w/]+\.py)` \|", text):
            if function not in _defined(ROOT / name):
                missing.append(f"{page.name}: {function} in {name}")
    assert missing == []


def _defined(path: Path) -> set[str]:
    """Classes, functions and methods of a module, as `name` and `Class.name`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if hasattr(part, "name")}
    return found
