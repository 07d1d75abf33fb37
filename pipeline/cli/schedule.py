"""Defines `vaeline schedule`: runs at scheduled times, on the cluster or with cron."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.cli.cluster import compile_checked
from pipeline.cli.command import common, config_option, runs_root_option, set_option


@click.group()
def schedule() -> None:
    """Start runs by the `schedule` section: on the cluster, or on this machine by cron."""


@schedule.command()
@config_option
@set_option
@common
def create(terminal: Any, config_path: str, overrides: tuple[str, ...]) -> int:
    """Make the schedule on the cluster: one run at a time, none made up for."""
    from pipeline.config import ConfigError, load_config
    from pipeline.orchestration.local_schedule import coming_starts
    from pipeline.orchestration.platforms import connect

    config = load_config(config_path, overrides=overrides)
    starts = coming_starts(config.schedule)
    platform = connect(config)
    for found in platform.list_schedules(config.name):
        if found.state != "ended":
            raise ConfigError(
                f"{config.name} has a schedule already: {found.id} ({found.cron}); delete it first"
            )
    made = platform.create_schedule(compile_checked(terminal, config), config.schedule)
    terminal.say(f"scheduled: {made.id}")
    for start in starts:
        terminal.say(f"  {start}")
    terminal.result(made.as_dict())
    return 0


@schedule.command("list")
@config_option
@set_option
@common
def list_schedules(terminal: Any, config_path: str, overrides: tuple[str, ...]) -> int:
    """List the pipeline's schedules on the cluster."""
    from pipeline.config import load_config
    from pipeline.orchestration.platforms import connect

    config = load_config(config_path, overrides=overrides)
    found = connect(config).list_schedules(config.name)
    terminal.table(
        f"schedules of {config.name}",
        [(item.id, item.cron, item.state, item.next_run) for item in found],
        header=("id", "cron", "state", "next run"),
    )
    terminal.result({"schedules": [item.as_dict() for item in found]})
    return 0


def _changing(verb: str, done: str, change: Callable[[Any, str], None], text: str) -> None:
    """Adds a command that changes one schedule."""

    @schedule.command(verb, help=text)
    @click.argument("schedule_id")
    @config_option
    @set_option
    @common
    def command(
        terminal: Any, schedule_id: str, config_path: str, overrides: tuple[str, ...]
    ) -> int:
        from pipeline.config import load_config
        from pipeline.orchestration.platforms import connect

        change(connect(load_config(config_path, overrides=overrides)), schedule_id)
        terminal.say(f"{done}: {schedule_id}")
        terminal.result({"id": schedule_id, "state": done})
        return 0


_changing("pause", "paused", lambda platform, name: platform.set_active(name, active=False),
          "Start no more runs until `resume`; a run in progress continues.")  # fmt: skip
_changing("resume", "active", lambda platform, name: platform.set_active(name, active=True),
          "Start runs again, without those that were missed.")  # fmt: skip
_changing("delete", "deleted", lambda platform, name: platform.delete_schedule(name),
          "Remove a schedule; its runs stay.")  # fmt: skip


@schedule.command()
@config_option
@set_option
@runs_root_option
@click.option("--systemd", is_flag=True, help="A service and a timer in place of a crontab line.")
@common
def local(
    terminal: Any, config_path: str, overrides: tuple[str, ...], root: str, systemd: bool
) -> int:
    """Print what starts `vaeline retrain` on this machine; nothing is installed."""
    from pipeline.config import load_config
    from pipeline.orchestration.local_schedule import plan_local_schedule

    config = load_config(config_path, overrides=overrides, root=root)
    plan = plan_local_schedule(config, config_path, root=root, overrides=overrides, systemd=systemd)
    for name, text in plan.units.items():
        terminal.say(f"# {name}", style="bold")
        terminal.say(text)
    # Comments, because the output may go to crontab.
    notes = [
        f"until this changes, runs fail in {Path.cwd()}: {fault}"
        for fault in (plan.input_fault, plan.root_fault)
        if fault
    ]
    if plan.variables:
        place = "with Environment= in the service" if systemd else "above the line"
        notes.append(f"set {place}, as they are in this shell: {', '.join(plan.variables)}")
    for note in filter(None, (*notes, plan.root_note)):
        terminal.say(f"# {note}", style="yellow")
    terminal.result({"units": plan.units, "next": plan.starts, "input_fault": plan.input_fault,
                     "root_fault": plan.root_fault, "root_note": plan.root_note,
                     "variables": plan.variables})  # fmt: skip
    return 0
