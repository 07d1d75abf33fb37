"""Labels archives for `vaeline classify` and `embed`: the bulk job with what a person sees of it.

It imports no TFX, which machines for bulk jobs may lack.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.bulk_inference.config import BulkConfig
from pipeline.console import (
    Terminal,
    breakdown,
    duration,
    logged,
    optional_report,
    with_breakdown,
)
from pipeline.log_files import new_log_path

if TYPE_CHECKING:
    # Importing the module at run time would be slow.
    from components.bulk_inference.output.result import BulkResult


def classify_archives(terminal: Terminal, config: BulkConfig, *, logs: Path) -> dict[str, Any]:
    """Labels archives with a pushed model and shows the progress.

    Args:
        terminal: Output for the user.
        config: The job; input, model and output are set.
        logs: Folder whose `logs/` subfolder receives the log file.

    Returns:
        Counts, paths and times as JSON-compatible values.

    Raises:
        Exception: The error that stopped the job.
    """
    log_path = new_log_path(logs)
    with logged(terminal, log_path), terminal.live() as line:
        from components.bulk_inference.job import run_bulk

        result = run_bulk(config, progress=lambda event: line(event.line()), command=sys.argv)
        page = ""
        if config.report and result.estimate is None:
            page = archive_page(terminal, config.output)
    for note in result.notes:
        terminal.say(note, style="yellow")
    if result.estimate is not None:
        terminal.table("estimate for the whole job", _estimate_rows(result.estimate))
        return result.as_dict()
    kept = f" ({result.reused:,} rows kept)" if result.reused else ""
    rows = [
        ("members", f"{result.members:,}{kept}"),
        ("rows", f"{result.rows:,}"),
        ("rejects", with_breakdown(result.rejects, result.reasons)),
        ("duplicates skipped", f"{result.duplicates:,}"),
        *((("near-duplicates", _near(result)),) if result.near_images else ()),
        *((("ignored", _ignored(result)),) if result.ignored else ()),
        # Without their column they were not computed.
        *((("labels", breakdown(result.labels)),) if result.labels else ()),
        *((("verdicts", breakdown(result.verdicts)),) if result.verdicts else ()),
        *((("findings", _findings(result)),) if result.with_findings else ()),
        *((("drift", _drift(result.drift)),) if result.drift else ()),
        ("model", result.model),
        ("table", result.output),
        *((("report", page),) if page else ()),
        ("time", _bulk_time(result)),
    ]
    terminal.table("labelled archive", rows)
    return {**result.as_dict(), "report": page}


def archive_page(terminal: Terminal, output: str) -> str:
    """Writes the report of a labelled archive; a failure is shown and does not fail the job.

    Args:
        terminal: Output for the user.
        output: Output folder of the bulk job.

    Returns:
        The path of the page; empty if there is none.
    """
    with optional_report(terminal):
        from pipeline.report.archive_report import write_archive_report

        return write_archive_report(output)
    return ""


def _near(result: "BulkResult") -> str:
    return f"{result.near_images:,} images in {result.near_groups:,} groups"


def _findings(result: "BulkResult") -> str:
    counts = {name.replace("_", " "): number for name, number in result.findings.items()}
    return with_breakdown(result.with_findings, counts)


def _drift(report: Mapping[str, Any]) -> str:
    found = "ALARM: see drift.md" if report["alarm"] else "none found"
    return ". ".join(filter(None, (found if report["tests"] else "", report["note"])))


def _bulk_time(result: "BulkResult") -> str:
    if not result.members_done_now:
        return f"{duration(result.seconds)}, everything was done before"
    return f"{duration(result.seconds)}, {result.images_per_second:,.0f} images/s with start-up"


def _estimate_rows(estimate: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("sampled", f"{estimate['sampled']:,} members of {estimate['sampled_units']:,} units"),
        ("members", f"{estimate['members']:,} in {estimate['units']:,} units"),
        ("rows", f"{estimate['rows']:,}"),
        ("rejects", f"{estimate['rejects']:,}"),
        ("time", f"{duration(estimate['seconds'])}, {estimate['images_per_second']:,.0f} images/s"),
        ("memory", f"{estimate['memory_bytes'] / 2**20:,.0f} MiB"),
        ("output", f"{estimate['output_bytes'] / 2**20:,.1f} MiB"),
    ]


def _ignored(result: "BulkResult") -> str:
    counts = {reason: entry["count"] for reason, entry in result.ignored_by_reason.items()}
    return with_breakdown(result.ignored, counts)
