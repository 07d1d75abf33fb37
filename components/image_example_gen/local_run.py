"""Ingests a large input with processes of this machine, in place of Beam's local runner.

`ingest.py` calls it. Beam's in-memory runner works in one process, whose interpreter lock leaves
one core idle; with several processes, each of them would import all of TFX before it starts.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.image_example_gen import duplicates
from components.image_example_gen.finishing import facts_of, find_copies, finish_part
from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.workers import Workers
from components.image_sources.base import WorkUnit

_MOST: Final = 16
"""Largest number of processes: more would wait for the disk, and each takes 100 MiB."""
UNITS_TO_JUDGE_BY: Final = _MOST + 1
_WORTH_MEMBERS: Final = 16_384
"""Number of members from which processes pay off: unless images are large, fewer are finished
before the workers have started."""


def choose_processes(pipeline: beam.Pipeline, units: Sequence[WorkUnit], cores: int) -> int:
    """Returns the number of processes that are worth their start-up time.

    Args:
        pipeline: The pipeline that would run otherwise. A runner that is configured for several
            workers, here or elsewhere, keeps the work.
        units: The first `UNITS_TO_JUDGE_BY` units.
        cores: The number of cores that this process may use.

    Returns:
        The number of processes; 0 leaves all work to Beam.
    """
    options = pipeline.options.view_as(DirectOptions)
    if (
        not isinstance(pipeline.runner, FnApiRunner | SwitchingDirectRunner)
        or options.direct_running_mode != "in_memory"
        or options.direct_num_workers != 1
    ):
        return 0
    known = [unit.members for unit in units]
    # Tars and TFRecord files do not reveal their number of members.
    told = min(known, default=0) >= 0
    if told and sum(known) < _WORTH_MEMBERS and len(units) < UNITS_TO_JUDGE_BY:
        return 0
    processes = min(len(units), cores, _MOST)
    return processes if processes > 1 else 0


def run(job: IngestJob, output: str, units: Iterable[WorkUnit], workers: Workers) -> None:
    """Performs the steps of `transforms.Ingest` without Beam.

    Args:
        job: The input and what to store.
        output: The artifact's folder.
        units: The work units, planned while earlier ones are processed.
        workers: Started worker processes.

    Raises:
        InputError: if a source fails or a process dies.
        OSError: if the output cannot be written.
    """
    parts = list(workers.write(units))
    facts = [facts_of(part) for part in parts]
    requests: defaultdict[int, list[bytes]] = defaultdict(list)
    for partition in range(duplicates.PARTITIONS):
        for number, packed in find_copies(
            partition, facts, output, job.input.duplicates.exact == "drop"
        ):
            requests[number].append(packed)
    near: dict[int, bytes] = {}
    if job.input.duplicates.near != "off":
        # Few runs load SciPy.
        from components.image_example_gen.near_copies import find_near_copies

        found = ((number, packed) for number, each in requests.items() for packed in each)
        near = dict(find_near_copies(facts, found, output, job.is_grouped))
    for part in parts:
        finish_part(part, requests[part.number], [near.get(part.number, b"")], facts, output)
