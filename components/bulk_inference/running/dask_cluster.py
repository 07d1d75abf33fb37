"""Looks at the workers of a Dask cluster: their cores, and the paths that they can't read.

`engine_checks.py` refuses a cluster by it before a job starts, and `engines.py` counts cores.
"""

import asyncio
import os
import platform
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from trainer.cores import usable_cores
from trainer.errors import InputError

_ANSWER_SECS: Final = 30


@dataclass(frozen=True)
class DaskWorker:
    """Describes a worker process.

    Attributes:
        address: The address at which the scheduler knows it.
        cores: Its share of the cores of its machine.
        missing: The paths that it cannot find.
    """

    address: str
    cores: int
    missing: tuple[str, ...]


def look_at_workers(scheduler: str, paths: Iterable[str] = ()) -> list[DaskWorker]:
    """Asks every worker of a cluster.

    Args:
        scheduler: Address of the scheduler.
        paths: Local paths to look for on each worker.

    Raises:
        InputError: if the scheduler does not answer, has no workers, or they lack vaeline.
    """
    try:
        answers = asyncio.run(_ask(scheduler, tuple(paths)))
    except OSError as error:
        raise InputError(
            f"bulk.engine.master (--master): no Dask scheduler answers at {scheduler}; start one"
            " with `dask scheduler`, or give another address"
        ) from error
    except ImportError as error:
        raise InputError(
            f"the Dask workers of {scheduler} cannot import vaeline ({error}); install"
            " 'vaeline[dask]' in their environment"
        ) from error
    if not answers:
        raise InputError(
            f"the Dask scheduler at {scheduler} has no workers; start one on each machine with"
            f" `dask worker {scheduler} --nworkers 1 --nthreads 2`"
        )
    machines = defaultdict(list)
    for machine, cores, _, _ in answers.values():
        machines[machine].append(cores)
    return [
        DaskWorker(
            address,
            # A quota holds for the container of one worker.
            max(1, min(quota, len(frozenset.union(*machines[machine])) // len(machines[machine]))),
            missing,
        )
        for address, (machine, _, quota, missing) in answers.items()
    ]


async def _ask(scheduler: str, paths: tuple[str, ...]) -> dict[str, Any]:
    from distributed import Client

    # The client's own time limit does not hold for a server that accepts and says nothing.
    async with (
        asyncio.timeout(_ANSWER_SECS),
        Client(scheduler, asynchronous=True, set_as_default=False) as client,
    ):
        return await client.run(_look, paths)


def _look(paths: tuple[str, ...]) -> tuple[str, frozenset[int], int, tuple[str, ...]]:
    """Runs on a worker: returns its machine, its cores and their number, and missing paths."""
    missing = tuple(path for path in paths if not os.path.exists(path))
    return platform.node(), frozenset(os.sched_getaffinity(0)), usable_cores(), missing
