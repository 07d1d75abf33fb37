"""How the suite is divided over processes, and how it ends."""

import faulthandler
import os
import sys
import threading
from collections.abc import Generator
from pathlib import PurePath

import pytest
from hypothesis import settings

from trainer.quick_imports import quick_imports

# The same examples in every run; `--hypothesis-profile=default` looks for others.
settings.register_profile("suite", derandomize=True)
settings.load_profile("suite")

ENDING_SECS = 60
"""Between the last test and the end of the process; normally two seconds."""

GROUPS = {
    "tests/pipeline/test_end_to_end.py": "runs",
    "tests/pipeline/test_run_fn.py": "training inputs",
    "tests/pipeline/test_tuner_fn.py": "training inputs",
    "tests/serving": "serving",
}
"""Files and folders whose tests share what takes long to make: a pipeline's root, Examples with
their Transform graph, an exported model. They stay in one process; every other file is a group of
its own."""

FROM_THE_START = ("serving", "runs")
"""Groups that take minutes; in several processes two begin with them."""

LONGEST_FIRST = (
    "training inputs",
    "tests/pipeline/orchestration/test_compiled_runs.py",
    "tests/trainer/test_replicas.py",
    "tests/trainer/test_backbone.py",
    "tests/components/bulk_inference/test_dask.py",
    "tests/pipeline/report/test_reports.py",
    "tests/trainer/test_train.py",
    "tests/components/bulk_inference/test_resume.py",
    "tests/trainer/test_keras_training.py",
    "tests/test_kernels.py",
    "tests/trainer/test_resume.py",
    "tests/components/test_image_example_gen.py",
    "tests/components/bulk_inference/test_storage.py",
    "tests/components/test_model_push.py",
    "tests/components/test_model_pixels.py",
    "tests/components/bulk_inference/test_engines.py",
    "tests/trainer/test_warm_start.py",
    "tests/trainer/test_starts.py",
    "tests/components/bulk_inference/test_prism.py",
    "tests/pipeline/test_prism_run.py",
)
"""Groups that take more than 15 seconds, in the order in which they start at the end."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports the files of tests, and with them TFX, as the commands import it.

    What lives as long as the process is then exempt from every collection that a test causes.
    """
    with quick_imports():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups the tests; in several processes two start with the groups that take longest.

    First of the hooks, because pytest-xdist reads the groups in its own. Fast tests come first
    everywhere else, so that most failures show within a minute.
    """

    def place(item: pytest.Item) -> tuple[int, int]:
        group = group_of(item)
        if group in FROM_THE_START:
            return (0 if parallel else 3), FROM_THE_START.index(group)
        return (2, LONGEST_FIRST.index(group)) if group in LONGEST_FIRST else (1, 0)

    parallel = bool(os.environ.get("PYTEST_XDIST_WORKER"))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=place)


def group_of(item: pytest.Item) -> str:
    """The group of a test."""
    path = PurePath(item.nodeid.split("::")[0])
    for each in (path, *path.parents):
        if str(each) in GROUPS:
            return GROUPS[str(each)]
    return str(path)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Makes sure that the process ends after its summary.

    A Beam job service that a failed test left behind has threads that wait for ever, and Python
    waits for them; pytest can also be busy deleting the folders of earlier runs. pytest-xdist ends
    its processes itself: they wait for the slowest of them.
    """
    if os.environ.get("PYTEST_XDIST_WORKER"):
        return

    def end() -> None:
        sys.stderr.write(f"still running after {ENDING_SECS} s, so ended in:\n")
        sys.stderr.flush()
        faulthandler.dump_traceback(sys.stderr)
        os._exit(int(exitstatus))

    watchdog = threading.Timer(ENDING_SECS, end)
    watchdog.daemon = True
    watchdog.start()
