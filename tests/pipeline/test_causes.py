"""The line that a person gets from an error of many layers."""

import ast
from pathlib import Path

import pytest

from components.model_gate.measures import EvaluationError
from pipeline.causes import cause
from pipeline.config import ConfigError
from pipeline.report.page import ReportError
from trainer.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
INTERNAL = {
    "CardError",  # its callers name the file
    "ArraysError",  # likewise
    "LabelValueError",  # readers turn it into rejects, or name the row
    "UnnamedNumberError",
    "FrameError",  # likewise
    "ImageFaultError",  # a row of the rejects table
    "MissingPartError",  # a sentence on a page of the report
    "WorkerStartError",  # ingest falls back to one process
    "_BusyError",  # a root in a bucket is then not fetched again
    "_StopSearchError",  # carries another error through KerasTuner
}
"""Errors that the code itself handles, so that no user meets them."""


def raised_from(error: Exception, inner: Exception | None) -> Exception:
    try:
        raise error from inner
    except Exception as caught:
        return caught


def test_an_error_that_people_cause_is_its_message() -> None:
    assert cause(ConfigError("a.yaml: trainr: unknown key")) == "a.yaml: trainr: unknown key"


@pytest.mark.parametrize("kind", [EvaluationError, ReportError])
def test_every_error_of_users_is_its_message(kind: type[Exception]) -> None:
    assert cause(kind("runs/a: no run is recorded")) == "runs/a: no run is recorded"
    text = f"Traceback ...\n{kind.__module__}.{kind.__qualname__}: no images [while running 'Read']"
    assert cause(RuntimeError(text)) == "no images"


def test_every_error_class_derives_from_user_error_or_is_internal() -> None:
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for package in ("trainer", "serving", "components", "pipeline")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    }
    known = {"UserError"}
    while found := {name for name, of in bases.items() if of & known} - known:
        known |= found
    assert bases.keys() - known == INTERNAL


def test_beam_around_the_cause_is_taken_off() -> None:
    inner = InputError("a.zip: holds no images [while running 'Ingest/Read']")
    outer = raised_from(RuntimeError("bundle failed\nTraceback ..."), inner)
    assert cause(outer) == "a.zip: holds no images"


def test_the_cause_is_found_in_the_text_of_a_worker_process() -> None:
    text = (
        "Traceback (most recent call last):\n  File ...\n"
        "trainer.errors.InputError: a.zip: is not a zip file\n\nduring ..."
    )
    assert cause(RuntimeError(text)) == "a.zip: is not a zip file"


@pytest.mark.parametrize(
    "line",
    [
        "trainer.errors.VanishedError: a.zip: is not a zip file",
        "components.vanished.InputError: a.zip: is not a zip file",
        "pipeline.causes.cause: a.zip: is not a zip file",
        "elsewhere.InputError: a.zip: is not a zip file",
    ],
)
def test_a_line_that_names_no_error_of_users_is_not_taken_for_one(line: str) -> None:
    assert cause(RuntimeError(f"bundle failed\n{line}")) == "RuntimeError: bundle failed"


def test_a_full_disk_names_the_file() -> None:
    error = OSError(28, "No space left on device", "/data/x")
    assert cause(raised_from(RuntimeError("step failed"), error)) == (
        "/data/x: No space left on device; make room, and start again"
    )
    store = RuntimeError("Cannot create node for\ntype_id: 1\nquery: database or disk is full")
    assert cause(store) == (
        "the metadata store below the root can't be written: no space left; make room, and start"
        " again"
    )
    model = RuntimeError("{{function_node SaveV2}} /data/x; No space left on device [Op:SaveV2]")
    assert cause(model) == cause(error)


def test_an_unknown_error_gives_its_type_and_first_line() -> None:
    assert cause(KeyError("lost")) == "KeyError: 'lost'"
    assert cause(ZeroDivisionError()) == "ZeroDivisionError"


def test_a_cycle_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert cause(first) in {"ValueError: first", "ValueError: second"}


def test_a_heading_is_shown_with_what_follows() -> None:
    error = ValueError("Pipeline has validations errors: \nMissing option: region.\nNo project.")
    assert cause(error) == (
        "ValueError: Pipeline has validations errors: Missing option: region. No project."
    )
