"""Defines `vaeline schedule`: runs at scheduled times, on the cluster or with cron."""

import datetime
import os
import shutil
import sys
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
    from pipeline.orchestration.platforms import connect

    config = load_config(config_path, overrides=overrides)
    starts = _next_starts(config)
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
    from pipeline.config import find_config, load_config
    from pipeline.orchestration.timers import crontab, missing_variables, systemd_units
    from pipeline.working_root import missing_parent, root_fault, root_folder
    from trainer.storage.addresses import names_bucket

    config = load_config(config_path, overrides=overrides, root=root)
    starts = _next_starts(config)
    executable = shutil.which("vaeline")
    command = [executable] if executable else [sys.executable, "-P", "-m", "pipeline.cli"]
    command += ["retrain", "--config", str(find_config(config_path).resolve())]
    command += ["--root", root]
    for override in overrides:
        command += ["--set", override]
    if systemd:
        units = systemd_units(config.schedule, command, config.name, Path.cwd())
    else:
        units = {"crontab": crontab(config.schedule, command, root_folder(root), Path.cwd())}
    for name, text in units.items():
        terminal.say(f"# {name}", style="bold")
        terminal.say(text)
    folder = root_folder(root)
    faults = {"input_fault": _input_fault(config), "root_fault": root_fault(folder)}
    for fault in filter(None, faults.values()):
        # A comment, because the output may go to crontab.
        terminal.say(f"# until this changes, runs fail in {Path.cwd()}: {fault}", style="yellow")
    variables = missing_variables(os.environ) if _uses_stores(config, root) else []
    if variables:
        place = "with Environment= in the service" if systemd else "above the line"
        names = ", ".join(variables)
        terminal.say(f"# set {place}, as they are in this shell: {names}", style="yellow")
    note = "" if names_bucket(root) or faults["root_fault"] else missing_parent(folder)
    if note:
        terminal.say(f"# {note}", style="yellow")
    terminal.result({"units": units, "next": starts, **faults, "root_note": note,
                     "variables": variables})  # fmt: skip
    return 0


def _uses_stores(config: Any, root: str) -> bool:
    """Returns whether runs read or write anything in an object store."""
    from pipeline.config import to_yaml
    from trainer.storage.addresses import SCHEMES

    text = f"{root}\n{to_yaml(config)}"
    return any(scheme in text for scheme in SCHEMES)


def _input_fault(config: Any) -> str:
    """Returns why the input on this machine cannot be read now; empty if it can."""
    from pipeline.jobs import check_input
    from trainer.errors import InputError

    if any("://" in path or path.startswith("tfds:") for path in config.input.paths):
        return ""
    try:
        check_input(config.input)
    except InputError as error:
        return str(error)
    return ""


def _next_starts(config: Any) -> list[str]:
    from pipeline.orchestration.timers import next_starts

    now = datetime.datetime.now(datetime.UTC)
    return [time.isoformat() for time in next_starts(config.schedule, 3, now=now)]
