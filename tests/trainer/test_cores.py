"""Cores of containers: what starts threads sees quotas, too."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from trainer.cores import usable_cores

_REPORT = """
import json, os
from trainer.quick_imports import quick_imports

with quick_imports():
    pass
from trainer.cores import usable_cores

pools = ["TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"]
print(json.dumps([usable_cores(), *(os.environ.get(name) for name in pools)]))
"""


def _report(cores: set[int], variables: Mapping[str, str]) -> list[Any]:
    """Cores and the libraries' threads of a fresh process with this affinity."""
    kept = {k: v for k, v in os.environ.items() if "_NUM_" not in k}
    done = subprocess.run(
        [sys.executable, "-c", _REPORT],
        env={**kept, **variables},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        capture_output=True,
        text=True,
        check=True,
    )
    reported: list[Any] = json.loads(done.stdout)
    return reported


def test_libraries_are_told_of_a_limit_that_they_do_not_see() -> None:
    cores = os.sched_getaffinity(0)
    unlimited = _report(cores, {})
    assert unlimited == [usable_cores(), None, None, None] or usable_cores() < len(cores)
    if len(cores) > 1:
        limit = {"LOKY_MAX_CPU_COUNT": "1"}
        assert _report(cores, limit) == [1, "1", "1", "1"]
        # What a user set counts.
        assert _report(cores, {**limit, "TF_NUM_INTRAOP_THREADS": "2"}) == [1, "2", "1", "1"]


def test_cores_count_without_semaphores() -> None:
    cores = os.sched_getaffinity(0)
    assert _report(cores, {"JOBLIB_MULTIPROCESSING": "0"}) == _report(cores, {})


def test_the_affinity_counts() -> None:
    one = {min(os.sched_getaffinity(0))}
    assert _report(one, {}) == [1, None, None, None]
