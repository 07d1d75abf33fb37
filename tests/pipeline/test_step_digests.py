"""Digests of the code by step: which edit reaches which step."""

import ast
import shutil
from pathlib import Path

import pytest

from pipeline.digests import project_root
from pipeline.imports import PACKAGES, ImportGraph
from pipeline.step_digests import STEP_MODULES, by_step, step_digests

GRAPH = ImportGraph(project_root())
CLOSURES = {step: GRAPH.closure(modules) for step, modules in STEP_MODULES.items()}
BEFORE = step_digests()
SEEN = (
    "pipeline.graph",
    "pipeline.model_steps",
    "pipeline.jobs",
    "pipeline.labelling",
    "pipeline.step_display",
    "pipeline.console",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's packages to edit."""
    root = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(project_root() / package, root / package)
    return root


def reached(root: Path, module: str) -> set[str]:
    """Edits a module, restores it, and returns the steps whose digest the edit changed."""
    path = root / module
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\n# a comment\n", encoding="utf-8")
    try:
        after = step_digests(root)
    finally:
        path.write_text(text, encoding="utf-8")
    return {step for step in BEFORE if BEFORE[step] != after[step]}


def test_the_same_code_has_the_same_digests_wherever_it_is(copy: Path) -> None:
    digests = step_digests(copy)
    assert digests == BEFORE
    assert all(len(digest) == 16 for digest in digests.values())
    assert len(set(digests.values())) == len(STEP_MODULES)


@pytest.mark.parametrize(
    ("module", "steps", "others"),
    [
        ("pipeline/report/page.py", set(), set(STEP_MODULES)),
        ("pipeline/cli/run.py", set(), set(STEP_MODULES)),
        ("pipeline/graph.py", set(), set(STEP_MODULES)),
        (
            "trainer/optimization/losses.py",
            {"Trainer", "Tuner"},
            {"ImageExampleGen", "Transform", "ModelGate"},
        ),
        (
            "components/image_sources/zip.py",
            {"ImageExampleGen", "BulkInference"},
            {"Trainer", "Tuner", "Transform", "Evaluator", "ModelGate", "Pusher"},
        ),
        ("pipeline/quality_metrics/change.py", {"Evaluator"}, {"Trainer", "ModelGate"}),
        (
            "trainer/data/pixels.py",
            {"Transform", "Trainer", "Tuner"},
            {"ImageExampleGen", "ModelGate"},
        ),
    ],
)
def test_an_edit_reaches_the_steps_that_run_the_module(
    copy: Path, module: str, steps: set[str], others: set[str]
) -> None:
    changed = reached(copy, module)
    assert steps <= changed
    assert not changed & others


def test_a_module_imported_within_a_function_counts(copy: Path) -> None:
    # `files.py` imports Cloud Storage where it meets a gs:// path.
    statement = "from trainer.storage.google_store import GoogleStore"
    lines = (copy / "trainer/storage/files.py").read_text("utf-8").splitlines()
    assert f"        {statement}" in lines
    assert statement not in lines
    assert "ImageExampleGen" in reached(copy, "trainer/storage/google_store.py")


@pytest.mark.parametrize(
    ("module", "step"),
    [
        # Started as a process of its own.
        ("components/image_example_gen/worker.py", "ImageExampleGen"),
        ("components/serving_check/probe.py", "ServingCheck"),
        # Imported by name when their format is met.
        ("components/image_sources/tfds.py", "ImageExampleGen"),
        ("serving/client.py", "ServingCheck"),
    ],
)
def test_a_module_named_in_a_string_counts(copy: Path, module: str, step: str) -> None:
    assert step in reached(copy, module)


def test_a_new_module_counts_from_its_first_import(copy: Path) -> None:
    new, losses = copy / "trainer" / "new.py", copy / "trainer/optimization/losses.py"
    text = losses.read_text(encoding="utf-8")
    new.write_text("", encoding="utf-8")
    try:
        assert step_digests(copy) == BEFORE
        losses.write_text(f"{text}\nimport trainer.new\n", encoding="utf-8")
        with_import = step_digests(copy)
        assert with_import["Trainer"] != BEFORE["Trainer"]
        new.write_text("VALUE = 1\n", encoding="utf-8")
        assert step_digests(copy)["Trainer"] != with_import["Trainer"]
    finally:
        losses.write_text(text, encoding="utf-8")
        new.unlink()


def test_no_step_reaches_what_only_people_see() -> None:
    for step, closure in CLOSURES.items():
        wrong = [
            module
            for module in closure
            if module.startswith(("pipeline.report", "pipeline.orchestration", "pipeline.cli"))
            or module in SEEN
        ]
        assert wrong == [], step


def test_files_beside_the_code_belong_to_no_step() -> None:
    """Templates are not digested; a step that came to read such files would need it."""
    folders = {
        ".".join(path.parent.relative_to(project_root()).parts)
        for package in PACKAGES
        for path in (project_root() / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert folders == {"pipeline.report.templates"}


def test_modules_are_imported_by_name_only_where_the_name_is_written_out() -> None:
    """`import_module(f"...")` would hide a module from the digest."""
    hidden = [
        f"{module}: {ast.unparse(node)}"
        for module, tree in GRAPH.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__")
        and any(isinstance(argument, ast.JoinedStr | ast.BinOp) for argument in node.args)
    ]
    assert hidden == []


def test_one_digest_stands_for_every_step() -> None:
    assert by_step("c0de") == dict.fromkeys(STEP_MODULES, "c0de")
    assert by_step({"Trainer": "1"}) == {"Trainer": "1"}
