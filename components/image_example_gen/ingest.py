"""Runs an ingest as one call, from the input section to the artifact's files and the account.

The executor and the benchmarks call it; it depends on Beam, but not on TFX.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Final

import apache_beam as beam

from components.image_example_gen import account as accounts
from components.image_example_gen import finishing, local_run, parts, tables, transforms
from components.image_example_gen.account_checks import check_account
from components.image_example_gen.finding_table import write_findings
from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.input_overview import OVERVIEW, describe_input
from components.image_example_gen.same_pixels import count_same_pixels
from components.image_example_gen.workers import Workers, WorkerStartError
from components.image_sources.base import WorkUnit
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource
from components.image_sources.tar_index import TarIndex
from components.sinks import REJECT_SCHEMA
from trainer.config import ImageConfig
from trainer.cores import usable_cores
from trainer.data import features
from trainer.errors import InputError
from trainer.progress import PROGRESS_LOGGER
from trainer.storage import files

ACCOUNT_FILE: Final = "account.json"
REJECTS_FILE: Final = "rejects.parquet"
DUPLICATES_FILE: Final = "duplicates.parquet"
NEAR_DUPLICATES_FILE: Final = "near_duplicates.parquet"
_LOG: Final = logging.getLogger(PROGRESS_LOGGER)
_DETAILS: Final = logging.getLogger(__name__)
_INTERVAL_SECS: Final = 2.0

IngestProgressFn = Callable[[int, float], None]
"""Callback during an ingest: members read so far, and seconds since the start."""


def log_ingest_progress(members: int, seconds: float) -> None:
    """Logs the progress, for example `65,536 images, 24,000 images/s`."""
    _LOG.info("%s images, %s images/s", f"{members:,}", f"{members / max(seconds, 1e-9):,.0f}")


def ingest(
    config: InputConfig,
    uri: str,
    make_pipeline: Callable[[], beam.Pipeline],
    *,
    threads: int | None = None,
    processes: int | None = None,
    progress: IngestProgressFn = log_ingest_progress,
    image: ImageConfig | None = None,
) -> accounts.Account:
    """Reads all images into an Examples artifact.

    Args:
        config: The input section, with spans resolved.
        uri: The artifact's folder, which receives `Split-<split>/*.tfrecord`, `account.json`,
            `rejects.parquet`, `duplicates.parquet` and perhaps `near_duplicates.parquet` and
            `findings.parquet`.
        make_pipeline: Creates the Beam pipeline.
        threads: Threads that check images, per process; by default they share the cores.
        processes: Processes on this machine that read and check; 0 leaves all work to Beam. The
            default is one per core if Beam would run in this process and the input is large
            enough.
        progress: Called with the progress.
        image: The image that the network sees, for `store`; None stores images at their own size.

    Returns:
        The account.

    Raises:
        InputError: if the input cannot be used or the output cannot be written.
    """
    begin = time.perf_counter()
    output = uri.removeprefix("file://").rstrip("/")
    job = IngestJob(config, image)
    with parts.output_explained(output):
        files.remove(f"{output}/{parts.STAGING}")
        files.write_bytes(f"{output}/{parts.STAGING}/begun", b"")
        index = TarIndex(f"{output}/{parts.STAGING}/index")
        source = ImageSource(config, index)
        with _reported(output, progress, begin):
            _run(job, output, source.units(), make_pipeline(), threads, processes)
        finished = f"{output}/{finishing.ACCOUNTS}"
        contents = files.read_each(f"{finished}/{name}" for name in files.list_names(finished))
        account = accounts.add_up(map(accounts.loads, contents))
        account.empty = source.empty
        for split in features.SPLITS:
            if not account.by_split()[split]:
                # Readers treat a split without any file as missing.
                files.write_bytes(f"{output}/Split-{split}/empty.tfrecord", b"")
        tables.merge(output, parts.REJECTS, REJECTS_FILE, REJECT_SCHEMA)
        tables.merge(output, finishing.DUPLICATES, DUPLICATES_FILE, tables.DUPLICATES)
        if config.duplicates.near != "off":
            near = (finishing.NEAR_DUPLICATES, NEAR_DUPLICATES_FILE, tables.NEAR_DUPLICATES)
            tables.merge(output, *near)
        if config.findings.enabled:
            write_findings(output, config.findings, account)
            account.same_pixels = count_same_pixels(output, account.examples.total())
        account.seconds = time.perf_counter() - begin
        content = json.dumps(account.to_json(), indent=1).encode()
        files.write_bytes(f"{output}/{ACCOUNT_FILE}", content)
        files.remove(f"{output}/{parts.STAGING}")
    overview = describe_input(account, config)
    _LOG.info("%s", account.summary(), extra={OVERVIEW: overview})
    for line in overview.sources:
        _DETAILS.info("%s", line)
    for line in overview.warnings:
        _DETAILS.warning("%s", line)
    _check(account, config, output)
    return account


def _check(account: accounts.Account, config: InputConfig, output: str) -> None:
    """Checks the account; on failure keeps the rejects next to the artifact, which TFX removes.

    Raises:
        InputError: as for `check_account`.
    """
    folder, _, name = output.rpartition("/")
    kept = f"{name}-{REJECTS_FILE}"
    try:
        check_account(account, config, f"{folder}/{kept}")
    except InputError:
        if account.rejected.total():
            files.copy(f"{output}/{REJECTS_FILE}", f"{folder}/{kept}")
        raise


def _run(
    job: IngestJob,
    output: str,
    units: Iterator[WorkUnit],
    pipeline: beam.Pipeline,
    threads: int | None,
    processes: int | None,
) -> None:
    """Processes all units, with processes of this machine or with Beam."""
    cores = usable_cores()
    first = list(islice(units, local_run.UNITS_TO_JUDGE_BY))
    units = chain(first, units)
    if processes is None:
        processes = local_run.choose_processes(pipeline, first, cores)
    if processes and not files.is_remote(output):
        share = threads or max(1, cores // processes)
        try:
            with Workers(processes, job, output, share) as workers:
                local_run.run(job, output, units, workers)
            return
        except WorkerStartError as error:
            _LOG.warning("no worker processes (%s); continuing in this process", error)
    _run_beam(job, output, list(units), pipeline, threads or cores)


def _run_beam(
    job: IngestJob,
    output: str,
    units: list[WorkUnit],
    pipeline: beam.Pipeline,
    threads: int,
) -> None:
    """Runs the Beam pipeline and converts a worker's failure into one `InputError`."""
    try:
        with pipeline:
            _ = (
                pipeline
                | "Units" >> beam.Create(units, reshuffle=False)
                | "Ingest" >> transforms.Ingest(job, output, threads)
            )
    except RuntimeError as error:
        # Beam passes a worker's exception on as text only.
        found = re.search(
            re.escape(output) + r": (no space left|cannot be written)[^\n\[]*", str(error)
        )
        if found:
            raise InputError(found.group().strip()) from error
        raise
    failed = f"{output}/{transforms.FAILED}"
    if files.exists(failed):
        raise InputError(files.read_bytes(failed).decode())


@contextmanager
def _reported(output: str, progress: IngestProgressFn, begin: float) -> Iterator[None]:
    """Reports progress from the markers of finished parts, whichever process wrote them."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_INTERVAL_SECS):
            progress(_members_done(output), time.perf_counter() - begin)

    thread = threading.Thread(target=watch, daemon=True)
    is_watched = not files.is_remote(output)
    if is_watched:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if is_watched:
            thread.join()


def _members_done(output: str) -> int:
    return sum(int(name.rpartition(".")[2]) for name in files.list_names(f"{output}/{parts.DONE}"))
