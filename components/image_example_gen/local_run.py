"""Ingest by processes of this machine, without Beam: what a large input gets on a local runner.

Called by `ingest.py`. Beam's in-memory runner works in one process, whose interpreter lock leaves
one core idle; its processes import TFX's whole world before they begin.
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
from components.image_example_gen.output import OutputFolder
from components.image_example_gen.workers import Workers
from components.image_sources.base import WorkUnit
from components.image_sources.config import InputConfig

_MOST: Final = 16
"""More would wait for the disk, and each takes 100 MiB."""
UNITS_TO_JUDGE_BY: Final = _MOST + 1
_WORTH_MEMBERS: Final = 16_384
"""Fewer images are done before workers have started, unless they are large."""


def choose_processes(pipeline: beam.Pipeline, units: Sequence[WorkUnit], cores: int) -> int:
    """Says how many processes are worth their start.

    Args:
        pipeline: What would run otherwise. A runner that was told to use several workers, here
            or elsewhere, is left alone.
        units: The first `UNITS_TO_JUDGE_BY` of them.
        cores: Those of this machine that this process may use.

    Returns:
        The number; 0 leaves all to Beam.
    """
    options = pipeline.options.view_as(DirectOptions)
    if (
        not isinstance(pipeline.runner, FnApiRunner | SwitchingDirectRunner)
        or options.direct_running_mode != "in_memory"
        or options.direct_num_workers != 1
    ):
        return 0
    known = [unit.members for unit in units]
    # Tars and TFRecord files do not tell how much is in them.
    told = min(known, default=0) >= 0
    if told and sum(known) < _WORTH_MEMBERS and len(units) < UNITS_TO_JUDGE_BY:
        return 0
    processes = min(len(units), cores, _MOST)
    return processes if processes > 1 else 0


def run(
    config: InputConfig, output: OutputFolder, units: Iterable[WorkUnit], workers: Workers
) -> None:
    """Does what `transforms.Ingest` does.

    Args:
        config: The input section, spans resolved.
        output: The artifact's folder.
        units: The work; planned while it is done.
        workers: Processes that are ready.

    Raises:
        InputError: if a source fails or a process dies.
        OSError: if the output cannot be written.
    """
    parts = list(workers.write(units))
    facts = [facts_of(part) for part in parts]
    requests: defaultdict[int, list[bytes]] = defaultdict(list)
    for partition in range(duplicates.PARTITIONS):
        for number, packed in find_copies(partition, facts, output, config.duplicates == "drop"):
            requests[number].append(packed)
    for part in parts:
        finish_part(part, requests[part.number], facts, output)
