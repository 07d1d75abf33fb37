"""Shows what an input holds: after an ingest, and for `vaeline inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.image_example_gen.input_overview import InputOverview
from components.image_sources.config import InputConfig
from components.image_sources.spans import resolve
from pipeline.config import PipelineConfig
from pipeline.console import Terminal, duration, logged, with_breakdown
from pipeline.log_files import new_log_path
from trainer.errors import InputError

if TYPE_CHECKING:
    from components.image_example_gen.account import Account
    from pipeline.run_estimate import RunEstimate


def inspect_input(
    terminal: Terminal,
    config: InputConfig,
    run: PipelineConfig | None,
    *,
    full: bool,
    logs: Path,
) -> dict[str, Any]:
    """Shows what a run would find in its input and what it would cost, without training.

    Args:
        terminal: Output for the user.
        config: The input.
        run: The configuration to estimate a run of; None estimates nothing.
        full: Whether to read everything instead of a sample.
        logs: Folder whose `logs/` subfolder receives the log file.

    Returns:
        What is shown, as JSON-compatible values.

    Raises:
        InputError: The input cannot be read, or there is nothing in it.
    """
    from components.image_example_gen.input_overview import describe_input
    from components.image_example_gen.survey import survey

    estimate: RunEstimate | None = None
    config = resolve(config).config
    with logged(terminal, new_log_path(logs)), terminal.live("reading images"):
        found = survey(config, full=full)
        overview = describe_input(found.account, config)
    account = found.account
    read = account.images_in + account.ignored.total()
    size = f"{read:,} members" if found.is_complete else f"{read:,} of {found.members:,} members"
    show_overview(terminal, overview, title=f"input: {size}, copies not looked for")
    if account.rejected.total():
        reasons = with_breakdown(account.rejected.total(), account.rejected)
        terminal.say(f"rejected: {reasons}", style="yellow")
    fault = _fault(account, config) if found.is_complete else None
    if fault:
        terminal.say(f"a run would stop: {fault}", style="yellow")
    if run is not None and account.examples.total():
        with logged(terminal, new_log_path(logs)), terminal.live("measuring training steps"):
            from pipeline.run_estimate import estimate_run

            estimate = estimate_run(run, found)
        terminal.table("estimate for a run, without evaluation and push", _run_rows(estimate))
    return {
        "complete": found.is_complete,
        "members": found.members,
        "read": account.to_json(),
        "overview": overview.as_dict(),
        "fault": fault,
        "estimate": estimate.as_dict() if estimate else None,
    }


def _fault(account: "Account", config: InputConfig) -> str | None:
    """Returns why a run would stop right after its ingest."""
    from components.image_example_gen.account_checks import check_account

    try:
        check_account(account, config)
    except InputError as error:
        return str(error)
    return None


def _run_rows(estimate: "RunEstimate") -> list[tuple[str, str]]:
    return [
        ("ingest", duration(estimate.ingest_seconds)),
        (
            "training",
            f"{duration(estimate.training_seconds)}, {estimate.images:,} images at"
            f" {estimate.images_per_second:,.0f} images/s",
        ),
        *([("unlabelled", f"{estimate.unlabelled:,} images")] if estimate.unlabelled else []),
        *(
            [("labelled only", duration(estimate.labelled_only_seconds))]
            if estimate.labelled_only_seconds
            else []
        ),
        ("memory", f"{estimate.memory_bytes / 2**20:,.0f} MiB"),
        ("disk", f"{estimate.disk_bytes / 2**20:,.1f} MiB"),
    ]


def show_overview(terminal: Terminal, overview: InputOverview, *, title: str = "input") -> None:
    """Prints what an ingest found: classes by split, what named them, and warnings."""
    terminal.table(title, overview.rows, header=overview.header)
    for line in overview.sources:
        terminal.say(line, style="dim")
    for line in overview.warnings:
        terminal.say(f"warning: {line}", style="yellow")
