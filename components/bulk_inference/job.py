"""Runs a bulk job: plans, resumes, annotates, checks the counts and summarises.

The command line, the pipeline and the TFX component call `run_bulk`, the only entry point.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from components.bulk_inference.annotation.schema import FINDINGS_COLUMN, require_columns
from components.bulk_inference.config import BulkConfig, BulkJob
from components.bulk_inference.drift import comparison as drift
from components.bulk_inference.drift.drift_sums import DriftSums
from components.bulk_inference.drift.picture import draw_drift
from components.bulk_inference.model_card import read_card, verdict_notes, with_model_input
from components.bulk_inference.output.counts import COUNT_NAMES
from components.bulk_inference.output.job_manifest import Totals, write_manifest
from components.bulk_inference.output.ledger import (
    MANIFEST,
    NEAR_DUPLICATES,
    REJECTS,
    Ledger,
    shard_path,
)
from components.bulk_inference.output.result import BulkResult
from components.bulk_inference.planning import exact_copies
from components.bulk_inference.planning.identity import job_identity
from components.bulk_inference.planning.reuse import NEEDED_COLUMNS
from components.bulk_inference.planning.work_units import PlannedUnit, plan_units
from components.bulk_inference.running.counters import read_counters
from components.bulk_inference.running.engine_checks import require_engine
from components.bulk_inference.running.interruption import workers_end_with_us
from components.bulk_inference.running.progress import BulkProgress, Watch
from components.image_findings.finding_rules import FEWEST_IMAGES, bounds_in_use
from trainer.cores import usable_cores
from trainer.errors import InputError, UserError
from trainer.json_text import json_text
from trainer.model_card import ModelCard
from trainer.quick_imports import quick_imports

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
        InputError: if the input, the model, the output or the runner cannot be used, or too many
            members are rejected; its message is one line that says how to fix it.
        CountMismatchError: if a member is unaccounted for.
    """
    job = BulkJob.of(config)
    ledger = Ledger(job.output)
    card = _require_usable(job)
    job, notes = _without_unknown_findings(with_model_input(job, card.path), card)
    run = _BulkRun(job, card, ledger, progress)
    run.result.notes.extend([*notes, *verdict_notes(card, job.columns)])
    if job.dry_run:
        run.estimate()
    else:
        ledger.require_writable()
        require_engine(job)
        with ledger.exclusive():
            run.annotate(list(command))
    return run.result


def _require_usable(config: BulkJob) -> ModelCard:
    require_columns(config.columns)
    if config.format == "npy" and "embedding" not in config.columns:
        raise InputError("bulk.format npy needs the column `embedding` in bulk.columns")
    return read_card(config.model)


def _without_unknown_findings(job: BulkJob, card: ModelCard) -> tuple[BulkJob, list[str]]:
    """Leaves the findings out if there are no bounds for them; a note says why."""
    if FINDINGS_COLUMN not in job.columns or bounds_in_use(card.findings, job.input.findings):
        return job, []
    note = "findings are left out: the model has no bounds for them; train it again"
    note += f" (at least {FEWEST_IMAGES} training images)"
    columns = tuple(name for name in job.columns if name != FINDINGS_COLUMN)
    if not columns:
        raise InputError(f"bulk.columns: {note}, or name more columns")
    notes = [note] if job.input.findings.enabled else []
    return job.model_copy(update={"columns": columns}), notes


class _BulkRun:
    """Runs one job.

    Args:
        job: The job.
        card: The model's card.
        ledger: The job's files.
        progress: Called about twice a second while the pipeline runs.

    Attributes:
        result: What the run found and did.
    """

    def __init__(
        self,
        job: BulkJob,
        card: ModelCard,
        ledger: Ledger,
        progress: Callable[[BulkProgress], None] | None,
    ) -> None:
        self._begin = time.perf_counter()
        self._job = job
        self._card = card
        self._ledger = ledger
        self._identity = job_identity(job, card)
        self._progress = progress
        self._repeats_units = False
        self.result = BulkResult(job.output, card.path)

    def annotate(self, command: list[str]) -> None:
        """Processes the missing units; the caller holds the lock of the output."""
        ledger, result = self._ledger, self.result
        may_restart = self._job.on_change == "restart"
        result.notes.extend(
            ledger.settle(self._identity, overwrite=self._job.overwrite, may_restart=may_restart)
        )
        planned = self._plan()
        finished = ledger.finished_names()
        stale = finished - {unit.name for unit in planned}
        if lost := ledger.reconcile(finished, stale):
            finished -= lost
            result.notes.append(f"units made again, as files are gone or cut short: {len(lost):,}")
        todo = [
            replace(unit, earlier=self._earlier_shards(unit, stale))
            for unit in planned
            if unit.name not in finished
        ]
        result.units = len(planned)
        result.units_done_now = len(todo)
        if todo or stale:
            # Neither may describe other units than there are, even if this run is killed.
            for name in (MANIFEST, NEAR_DUPLICATES):
                ledger.remove(name)
        pipeline_begin = time.monotonic()
        counted = self._run_pipeline(todo) if todo else {}
        pipeline_end = time.monotonic()
        for name in sorted(stale):
            ledger.forget(name)

        totals, now = Totals(), Totals()
        sums = DriftSums(self._card)
        done_now = {unit.name for unit in todo}
        for record in ledger.read_records(unit.name for unit in planned):
            totals.add(record)
            sums.add_dict(record.drift)
            if record.name in done_now:
                now.add(record)
                result.reused += record.reused
        result.members_done_now = now.members
        result.fill(totals, self._card)
        _require_matching_counts(totals, ledger.output)
        result.notes.extend(self._check_counters(counted, now))
        result.notes.extend(totals.notes())
        if self._job.near_duplicates:
            from components.bulk_inference.output.near_table import write_near_table

            found = write_near_table(ledger, [unit.name for unit in planned])
            result.near_groups, result.near_images = found
        if self._job.drift.enabled:
            result.drift = self._report_drift(sums)
        result.seconds = time.perf_counter() - self._begin
        if result.members_done_now:
            result.time(pipeline_begin, pipeline_end)
        write_manifest(ledger, self._job, self._card, totals, result.as_dict(), command)
        self._require_enough_rows()

    def estimate(self) -> None:
        """Estimates the cost of the remaining units without changing the output."""
        from components.bulk_inference.planning.estimate import estimate

        job, ledger = self._job, self._ledger
        planned = self._units
        is_kept = ledger.read_identity() == self._identity and not job.overwrite
        finished = ledger.finished_names() if is_kept else set()
        if finished and job.duplicates == "drop":
            planned = exact_copies.without_known_duplicates(ledger, planned)
        todo = [unit for unit in planned if unit.name not in finished]
        self.result.units = units = len(planned)
        self.result.notes.append(f"dry run: {units - len(todo):,} of {units:,} units are done")
        workers = job.engine.workers or usable_cores()
        found = estimate(job, self._card, todo, workers=workers, begin=self._begin)
        self.result.estimate = found.as_dict()
        self.result.seconds = time.perf_counter() - self._begin

    @cached_property
    def _units(self) -> list[PlannedUnit]:
        """All units of the input."""
        return list(plan_units(self._job))

    def _plan(self) -> list[PlannedUnit]:
        """Returns the units, without copies if the job leaves them out."""
        planned = self._units
        if self._job.duplicates == "keep":
            return planned
        ledger = self._ledger
        hashes_file = exact_copies.hashes_file
        unhashed = [unit for unit in planned if not ledger.exists(hashes_file(unit.name))]
        if unhashed:
            import apache_beam as beam

            from components.bulk_inference.annotation.transforms import HashUnits
            from components.bulk_inference.running.engines import choose_engine

            engine = choose_engine(self._job.engine, len(unhashed))
            with _interruptible(engine), beam.Pipeline(options=engine.options) as pipeline:
                _ = pipeline | "PlannedUnits" >> beam.Create(unhashed) | HashUnits(self._job)
        return exact_copies.without_duplicates(ledger, planned)

    def _earlier_shards(self, unit: PlannedUnit, stale: set[str]) -> tuple[str, ...]:
        """Returns stale shards of the same archive, whose rows may be reused."""
        if self._job.near_duplicates:
            # Rows that are taken over come without the pixels to compare.
            return ()
        if self._job.format != "parquet" or not set(self._job.columns) >= NEEDED_COLUMNS:
            return ()
        archive = unit.name.split("/")[0]
        return tuple(
            shard_path(name, self._job) for name in sorted(stale) if name.split("/")[0] == archive
        )

    def _run_pipeline(self, todo: list[PlannedUnit]) -> dict[str, int]:
        """Runs the units on Beam and returns the values of its counters."""
        # Beam takes seconds to import, which a job with nothing to do avoids.
        with quick_imports():
            import apache_beam as beam

            from components.bulk_inference.annotation.transforms import AnnotateUnits
            from components.bulk_inference.annotation.unit import JobSpec
            from components.bulk_inference.running.engines import choose_engine

        engine = choose_engine(self._job.engine, len(todo))
        self._repeats_units = engine.repeats_units
        spec = JobSpec(self._job, self._card, engine.workers)
        watch = Watch(self._ledger, todo, in_process=engine.in_process, report=self._progress)
        with watch:
            pipeline = beam.Pipeline(options=engine.options)
            _ = pipeline | "PlannedUnits" >> beam.Create(todo) | AnnotateUnits(spec)
            with _interruptible(engine):
                outcome = pipeline.run()
            watch.follow(outcome)
            try:
                outcome.wait_until_finish()
            except KeyboardInterrupt:
                # Otherwise a cluster would continue a job that nobody waits for. The terminal's
                # signal may have ended the job's own server.
                with contextlib.suppress(Exception):
                    outcome.cancel()
                raise
        finished = self._ledger.finished_names()
        missing = next((unit.name for unit in todo if unit.name not in finished), None)
        if missing is not None:
            raise InputError(self._ledger.read_error(missing))
        if engine.repeats_units:
            # A worker that was lost on the way has left the files that it was writing.
            self._ledger.remove_unfinished()
        return read_counters(outcome)

    def _report_drift(self, sums: DriftSums) -> dict[str, Any]:
        report = drift.judge_drift(self._card, sums, self._job.drift.alarm_rate)
        parts = {
            "drift.json": json_text(report.as_dict(), indent=2).encode(),
            "drift.md": report.as_markdown().encode(),
        }
        # With the manifest, which is written last, there is a picture of these units.
        if self._job.drift.picture and report.tests and not self._ledger.exists(MANIFEST):
            parts["drift.png"] = draw_drift(self._card, sums, report)
        for name, content in parts.items():
            self._ledger.write(name, content)
        return report.as_dict()

    def _check_counters(self, counted: dict[str, int], now: Totals) -> list[str]:
        """Compares the records of this run with Beam's counters.

        Returns:
            Descriptions of the differences. Clusters repeat a unit when a worker is lost, and then
            count it twice.

        Raises:
            CountMismatchError: if they differ on a runner that processes each unit once.
        """
        differences = [
            f"Beam counted {counted.get(name, 0):,} {name}, this run's records"
            f" {getattr(now, name):,}"
            for name in COUNT_NAMES
            if counted and counted.get(name, 0) != getattr(now, name)
        ]
        if differences and not self._repeats_units:
            raise CountMismatchError(
                f"{self._job.output}: {differences[0]}; the table is not complete: report this,"
                " and run again with --overwrite"
            )
        return differences

    def _require_enough_rows(self) -> None:
        result = self.result
        images = result.members - result.ignored
        if not images:
            raise InputError(f"{', '.join(self._job.input.paths)}: no image files in there")
        share = result.rejects / images
        if share > self._job.max_rejected_share or result.rejects == images:
            most = max(result.reasons, key=lambda reason: result.reasons[reason])
            way_out = "" if result.rejects == images else ", or raise bulk.max_rejected_share"
            raise InputError(
                f"{result.rejects:,} of {images:,} members were rejected, most as {most}; see"
                f" {self._ledger.path(REJECTS)}{way_out}"
            )


def _interruptible(engine: "Engine") -> AbstractContextManager[None]:
    """Returns the context of a pipeline, in which Ctrl-C ends the local worker processes."""
    return workers_end_with_us() if engine.has_children else contextlib.nullcontext()


def _require_matching_counts(totals: Totals, output: str) -> None:
    if totals.members != totals.accounted:
        raise CountMismatchError(
            f"{output}: {totals.members} members, but {totals.rows} rows +"
            f" {totals.rejects} rejects + {totals.duplicates} duplicates + {totals.ignored} ignored"
            f" = {totals.accounted}; the table is not complete: report this, and run again with"
            " --overwrite"
        )
