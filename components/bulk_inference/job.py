"""Runs a bulk job: plans, resumes, annotates, checks the counts and summarises.

The command line, the pipeline and the TFX component call `run_bulk`, the only entry point.
"""

import contextlib
import posixpath
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from components.bulk_inference.annotation.schema import require_columns
from components.bulk_inference.config import BulkConfig, BulkJob
from components.bulk_inference.drift import comparison as drift
from components.bulk_inference.drift.drift_sums import DriftSums
from components.bulk_inference.model_card import read_card
from components.bulk_inference.output import ledger
from components.bulk_inference.output.counts import COUNT_NAMES
from components.bulk_inference.output.job_manifest import Totals, write_manifest
from components.bulk_inference.output.result import BulkResult
from components.bulk_inference.planning import identity
from components.bulk_inference.planning.reuse import NEEDED_COLUMNS
from components.bulk_inference.planning.work_units import PlannedUnit, plan_units
from components.bulk_inference.running.counters import read_counters
from components.bulk_inference.running.interruption import workers_end_with_us
from components.bulk_inference.running.progress import BulkProgress, Watch
from components.image_sources.naming import renamed_notes
from trainer.errors import InputError, UserError
from trainer.json_text import json_text
from trainer.model_card import ModelCard
from trainer.storage import files

if TYPE_CHECKING:
    # Importing the module at run time would import Beam.
    from components.bulk_inference.running.engines import Engine


class CountMismatchError(UserError, RuntimeError):
    """Reports that members differ from rows + rejects + duplicates + ignored, which is a bug."""


def run_bulk(
    config: BulkConfig,
    progress: Callable[[BulkProgress], None] | None = None,
    command: Iterable[str] = (),
) -> BulkResult:
    """Annotates every image of the input that is not annotated yet.

    Args:
        config: The job; `input`, `model` and `output` are set.
        progress: Called about twice a second from another thread while the pipeline runs.
        command: The command line, for the manifest.

    Returns:
        Counts over the whole table, including units of earlier runs.

    Raises:
        InputError: if the input, the model or the output cannot be used, or too many members
            are rejected; its message is one line that says how to fix it.
        CountMismatchError: if a member is unaccounted for.
    """
    begin = time.perf_counter()
    job = BulkJob.of(config)
    card = _require_usable(job)
    result = BulkResult(job.output, card.path)
    if job.dry_run:
        return _dry_run(job, card, result)
    with ledger.exclusive(job.output):
        return _run_locked(job, card, result, progress, list(command), begin)


def _run_locked(
    config: BulkJob,
    card: ModelCard,
    result: BulkResult,
    progress: Callable[[BulkProgress], None] | None,
    command: list[str],
    begin: float,
) -> BulkResult:
    """Processes the missing units while holding the lock of the output."""
    result.notes.extend(identity.settle(config, card))
    planned = list(plan_units(config))
    if config.duplicates == "drop":
        planned = _leave_out_duplicates(config, planned)
    finished = ledger.finished_names(config.output)
    stale = finished - {unit.name for unit in planned}
    todo = [
        replace(unit, earlier=_earlier_shards(config, unit, stale))
        for unit in planned
        if unit.name not in finished
    ]

    result.units = len(planned)
    result.units_done_now = len(todo)
    if todo or stale:
        files.remove(posixpath.join(config.output, ledger.MANIFEST))
    pipeline_begin = time.monotonic()
    counted = _run_pipeline(config, card, todo, progress) if todo else {}
    pipeline_end = time.monotonic()
    for name in sorted(stale):
        ledger.forget(config.output, name)

    totals, now = Totals(), Totals()
    sums = DriftSums(card)
    done_now = {unit.name for unit in todo}
    for record in ledger.read_unit_records(config.output, [unit.name for unit in planned]):
        totals.add(record)
        sums.add_dict(record.drift)
        if record.name in done_now:
            now.add(record)
            result.reused += record.reused
    result.members_done_now = now.members
    result.fill(totals, card)
    _require_matching_counts(totals, result)
    result.notes.extend(_check_counters(config, counted, now))
    result.notes.extend(renamed_notes(totals.renamed))
    if config.drift.enabled:
        result.drift = _report_drift(config, card, sums, changed=bool(todo or stale))
    result.seconds = time.perf_counter() - begin
    if result.members_done_now:
        result.time(pipeline_begin, pipeline_end)
    write_manifest(config, card, totals, result.as_dict(), command)
    _require_enough_rows(config, result)
    return result


def _require_usable(config: BulkJob) -> ModelCard:
    require_columns(config.columns)
    if config.format == "npy" and "embedding" not in config.columns:
        raise InputError("bulk.format npy needs the column `embedding` in bulk.columns")
    card = read_card(config.model)
    if not config.dry_run:
        ledger.require_writable(config.output)
    return card


def _dry_run(config: BulkJob, card: ModelCard, result: BulkResult) -> BulkResult:
    """Estimates the cost of the remaining units without changing the output."""
    from components.bulk_inference.planning.estimate import estimate
    from components.bulk_inference.running.engines import usable_cores

    begin = time.perf_counter()
    planned = list(plan_units(config))
    same_job = identity.read_identity(config.output) == identity.job_identity(config, card)
    keep = same_job and not config.overwrite
    finished = ledger.finished_names(config.output) if keep else set()
    todo = [unit for unit in planned if unit.name not in finished]
    result.units = len(planned)
    result.notes.append(f"dry run: {len(finished & {u.name for u in planned})} units are done")
    found = estimate(config, card, todo, config.engine.workers or usable_cores())
    result.estimate = found.as_dict()
    result.seconds = time.perf_counter() - begin
    return result


def _leave_out_duplicates(config: BulkJob, planned: list[PlannedUnit]) -> list[PlannedUnit]:
    from components.bulk_inference.planning.exact_copies import hashes_path, without_duplicates

    unhashed = [unit for unit in planned if not files.exists(hashes_path(config.output, unit.name))]
    if unhashed:
        import apache_beam as beam

        from components.bulk_inference.annotation.transforms import HashUnits
        from components.bulk_inference.running.engines import choose_engine

        engine = choose_engine(config.engine, len(unhashed))
        with _interruptible(config, engine), beam.Pipeline(options=engine.options) as pipeline:
            _ = pipeline | "PlannedUnits" >> beam.Create(unhashed) | HashUnits(config)
    return without_duplicates(config.output, planned)


def _interruptible(config: BulkJob, engine: "Engine") -> AbstractContextManager[None]:
    """Returns the context of a pipeline, in which Ctrl-C ends the local worker processes."""
    is_local = config.engine.runner == "local" and not engine.in_process
    return workers_end_with_us() if is_local else contextlib.nullcontext()


def _earlier_shards(config: BulkJob, unit: PlannedUnit, stale: set[str]) -> tuple[str, ...]:
    """Returns stale shards of the same archive, whose rows may be reused."""
    if config.format != "parquet" or not set(config.columns) >= NEEDED_COLUMNS:
        return ()
    archive = unit.name.split("/")[0]
    return tuple(
        ledger.shard_path(name, config) for name in sorted(stale) if name.split("/")[0] == archive
    )


def _run_pipeline(
    config: BulkJob,
    card: ModelCard,
    todo: list[PlannedUnit],
    progress: Callable[[BulkProgress], None] | None,
) -> dict[str, int]:
    """Runs the units on Beam and returns the values of its counters."""
    # Beam takes seconds to import, which a job with nothing to do avoids.
    import apache_beam as beam

    from components.bulk_inference.annotation.transforms import AnnotateUnits
    from components.bulk_inference.annotation.unit import JobSpec
    from components.bulk_inference.running.engines import choose_engine

    engine = choose_engine(config.engine, len(todo))
    spec = JobSpec(config, card, engine.workers)
    with Watch(config.output, todo, in_process=engine.in_process, report=progress) as watch:
        pipeline = beam.Pipeline(options=engine.options)
        _ = pipeline | "PlannedUnits" >> beam.Create(todo) | AnnotateUnits(spec)
        with _interruptible(config, engine):
            outcome = pipeline.run()
        watch.follow(outcome)
        try:
            outcome.wait_until_finish()
        except KeyboardInterrupt:
            # Otherwise a cluster would continue a job that nobody waits for.
            outcome.cancel()
            raise
    finished = ledger.finished_names(config.output)
    missing = next((unit.name for unit in todo if unit.name not in finished), None)
    if missing is not None:
        raise InputError(ledger.read_error(config.output, missing))
    return read_counters(outcome)


def _report_drift(
    config: BulkJob, card: ModelCard, sums: DriftSums, *, changed: bool
) -> dict[str, Any]:
    report = drift.judge_drift(card, sums, config.drift.alarm_rate)
    content = json_text(report.as_dict(), indent=2).encode()
    files.write_bytes(posixpath.join(config.output, "drift.json"), content)
    text = report.as_markdown().encode()
    files.write_bytes(posixpath.join(config.output, "drift.md"), text)
    if config.drift.picture and report.tests and changed:
        picture = drift.draw(card, sums, report)
        files.write_bytes(posixpath.join(config.output, "drift.png"), picture)
    return report.as_dict()


def _require_matching_counts(totals: Totals, result: BulkResult) -> None:
    if totals.members != totals.accounted:
        raise CountMismatchError(
            f"{result.output}: {totals.members} members, but {totals.rows} rows +"
            f" {totals.rejects} rejects + {totals.duplicates} duplicates + {totals.ignored} ignored"
            f" = {totals.accounted}; the table is not complete: report this, and run again with"
            " --overwrite"
        )


def _check_counters(config: BulkJob, counted: dict[str, int], now: Totals) -> list[str]:
    """Compares the records of this run with Beam's counters.

    Returns:
        Descriptions of the differences. Clusters repeat a unit when a worker is lost, and then
        count it twice.

    Raises:
        CountMismatchError: if they differ on the local runner, which processes each unit once.
    """
    differences = [
        f"Beam counted {counted.get(name, 0):,} {name}, this run's records {getattr(now, name):,}"
        for name in COUNT_NAMES
        if counted and counted.get(name, 0) != getattr(now, name)
    ]
    if differences and config.engine.runner == "local":
        raise CountMismatchError(
            f"{config.output}: {differences[0]}; the table is not complete: report this, and run"
            " again with --overwrite"
        )
    return differences


def _require_enough_rows(config: BulkJob, result: BulkResult) -> None:
    images = result.members - result.ignored
    if not images:
        raise InputError(f"{', '.join(config.input.paths)}: no image files in there")
    share = result.rejects / images
    if share > config.max_rejected_share or result.rejects == images:
        most = max(result.reasons, key=lambda reason: result.reasons[reason])
        raise InputError(
            f"{result.rejects} of {images} members were rejected, most as {most}; see"
            f" {posixpath.join(result.output, ledger.REJECTS)}, or raise bulk.max_rejected_share"
        )
