"""Plans a schedule of `retrain` on this machine, with what would make its runs fail.

`cli/schedule.py` prints it; `timers.py` writes the crontab lines and the units.
"""

import datetime
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import PipelineConfig, find_config, to_yaml
from pipeline.jobs import check_input
from pipeline.orchestration.config import ScheduleConfig
from pipeline.orchestration.timers import (
    crontab,
    missing_variables,
    next_starts,
    systemd_units,
)
from pipeline.working_root import missing_parent, root_fault, root_folder
from trainer.errors import InputError
from trainer.storage.addresses import SCHEMES, names_bucket


@dataclass(frozen=True)
class LocalSchedule:
    """What starts runs on this machine.

    Attributes:
        units: texts of the crontab lines or systemd units, by name.
        starts: the next starts, in ISO format.
        input_fault: why the input cannot be read now; empty if it can.
        root_fault: why the root cannot be used now; empty if it can.
        root_note: what the first run will do about the root; empty if nothing.
        variables: names of variables of this shell by which object stores are reached, and which
            neither cron nor systemd passes on.
    """

    units: dict[str, str]
    starts: list[str]
    input_fault: str
    root_fault: str
    root_note: str
    variables: list[str]


def plan_local_schedule(
    config: PipelineConfig,
    config_path: str,
    *,
    root: str,
    overrides: Sequence[str] = (),
    systemd: bool = False,
) -> LocalSchedule:
    """Plans the schedule of a configuration; nothing is installed.

    Args:
        config: The configuration, with overrides applied.
        config_path: Path or name of its file, which the command names by its absolute path.
        root: Folder or address of the runs.
        overrides: `key.path=value` each, for the command.
        systemd: Whether to write a service and a timer in place of crontab lines.

    Raises:
        InputError: A part of the command holds a line break.
    """
    folder = root_folder(root)
    command = [*_executable(), "retrain", "--config", str(find_config(config_path).resolve())]
    command += ["--root", root]
    for override in overrides:
        command += ["--set", override]
    if systemd:
        units = systemd_units(config.schedule, command, config.name, Path.cwd())
    else:
        units = {"crontab": crontab(config.schedule, command, folder, Path.cwd())}
    fault = root_fault(folder)
    text = f"{root}\n{to_yaml(config)}"
    uses_stores = any(scheme in text for scheme in SCHEMES)
    return LocalSchedule(
        units=units,
        starts=coming_starts(config.schedule),
        input_fault=_input_fault(config),
        root_fault=fault,
        root_note="" if names_bucket(root) or fault else missing_parent(folder),
        variables=missing_variables(os.environ) if uses_stores else [],
    )


def coming_starts(schedule: ScheduleConfig) -> list[str]:
    """Returns the next three starts of a schedule from now, in ISO format."""
    now = datetime.datetime.now(datetime.UTC)
    return [time.isoformat() for time in next_starts(schedule, 3, now=now)]


def _executable() -> list[str]:
    """Returns the arguments that start `vaeline`, whatever the search path of cron is."""
    found = shutil.which("vaeline")
    return [found] if found else [sys.executable, "-P", "-m", "pipeline.cli"]


def _input_fault(config: PipelineConfig) -> str:
    """Returns why the input on this machine cannot be read now; empty if it can."""
    if any("://" in path or path.startswith("tfds:") for path in config.input.paths):
        return ""
    try:
        check_input(config.input)
    except InputError as error:
        return str(error)
    return ""
