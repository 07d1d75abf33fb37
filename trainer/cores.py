"""Counts the cores that this process may use; whatever starts threads or workers asks here."""

import functools
import os
import warnings
from typing import Final

_POOLS: Final = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
"""Variables of the pools of TensorFlow, and of Arrow and OpenMP, which read the last one."""


@functools.cache
def usable_cores() -> int:
    """Returns how many cores this process may use: at least 1.

    Both its affinity and the CPU quota of its container count, the latter rounded up. The variable
    `LOKY_MAX_CPU_COUNT` lowers the number further.
    """
    with warnings.catch_warnings():
        # It warns where there are no semaphores, and `joblib.cpu_count` is 1 there.
        warnings.simplefilter("ignore")
        # Takes 0.1 s, so not for commands that start nothing.
        from joblib.externals import loky

    return int(loky.cpu_count())


def limit_threads() -> None:
    """Gives libraries as many threads as there are usable cores; call it before they are imported.

    They know nothing of quotas. A container that may use 2 of 64 cores would otherwise be stopped
    again and again while 64 threads wait for each other. Child processes inherit the variables;
    what a user has set stays. NumPy's BLAS is loaded with joblib, so it keeps its own number here.
    """
    if usable_cores() < len(os.sched_getaffinity(0)):
        for name in _POOLS:
            os.environ.setdefault(name, str(usable_cores()))
