"""Writes schedules of `retrain` on this machine: a line for cron, or a timer for systemd."""

import datetime
import os
import pwd
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from croniter import croniter

from pipeline.log_files import CRON_LOG
from pipeline.orchestration.config import ScheduleConfig
from pipeline.orchestration.lock import EXIT_LOCKED
from trainer.errors import InputError

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_ZONE_NOTE = (
    "# cronie reads CRON_TZ; other crons, as on Debian and Ubuntu, may take the machine's time zone"
)
_DAY_OF_MONTH, _DAY_OF_WEEK = 2, 4
_ACCESS_VARIABLE: Final = re.compile(
    "(AWS|GOOGLE|CLOUDSDK)_.*|STORAGE_EMULATOR_HOST|XDG_CACHE_HOME|(https?|no)_proxy", re.IGNORECASE
)
"""Names of variables by which object stores are reached, and the copies of roots in them."""


def crontab(schedule: ScheduleConfig, command: Sequence[str], root: Path, folder: Path) -> str:
    """Writes lines for `crontab -e`.

    Args:
        schedule: The schedule.
        command: The command to start.
        root: Folder of the runs, whose `logs` subfolder receives cron's log.
        folder: Folder in which the command is started, for relative paths in the configuration.

    Returns:
        The time zone in the form of cronie, and the line. Cron supports neither start nor end.

    Raises:
        InputError: A part of the line holds a line break.
    """
    _require_one_line([*command, str(root), str(folder)])
    logs = root / "logs"
    line = (
        f"mkdir -p {shlex.quote(str(logs))} && cd {shlex.quote(str(folder))} &&"
        f" {{ date -Iseconds; {shlex.join(command)}; }} >>"
        f" {shlex.quote(str(logs / CRON_LOG))} 2>&1"
    )
    # In a crontab, a percent sign ends the line.
    shown = line.replace("%", r"\%")
    notes = [*_notes(schedule, "cron"), _ZONE_NOTE]
    return "\n".join([*notes, f"CRON_TZ={schedule.time_zone}", f"{schedule.cron} {shown}"]) + "\n"


def systemd_units(
    schedule: ScheduleConfig, command: Sequence[str], name: str, folder: Path
) -> dict[str, str]:
    """Writes a service and its timer.

    systemd runs one instance of a service at a time; `Persistent=false` disables catch-up.

    Args:
        schedule: The schedule. systemd's timers support neither start nor end.
        command: The command to start.
        name: Name of the pipeline.
        folder: Folder in which the command is started, for relative paths in the configuration.

    Returns:
        Texts by file name, for /etc/systemd/system. The service runs as this user; as root it would
        leave files that this user cannot write.

    Raises:
        InputError: A part of the command holds a line break.
    """
    _require_one_line([*command, str(folder)])
    unit = f"vaeline-{name}"
    # Within quotes of either kind, systemd takes backslashes for escapes of C.
    started = shlex.join(command).replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    service = f"""[Unit]
Description=Retraining of {name}

[Service]
Type=oneshot
User={_account()}
WorkingDirectory={str(folder).replace("%", "%%")}
ExecStart={started}
SuccessExitStatus={EXIT_LOCKED}
"""
    lines = "\n".join(
        [*_notes(schedule, "systemd"), *(f"OnCalendar={line}" for line in on_calendar(schedule))]
    )
    timer = f"""[Unit]
Description=Schedule of {name}

[Timer]
{lines}
Persistent=false

[Install]
WantedBy=timers.target
"""
    return {f"{unit}.service": service, f"{unit}.timer": timer}


def missing_variables(environ: Mapping[str, str]) -> list[str]:
    """Names the variables of this shell by which object stores are reached.

    Neither cron nor systemd has them, so that a run which works here would fail there.
    """
    return sorted(
        name for name, value in environ.items() if value and _ACCESS_VARIABLE.fullmatch(name)
    )


def _require_one_line(parts: Sequence[str]) -> None:
    broken = next((part for part in parts if "\n" in part or "\r" in part), None)
    if broken is not None:
        raise InputError(
            f"{broken!r}: holds a line break, which neither cron nor systemd takes;"
            " write the value into the configuration file, or rename the folder"
        )


def _notes(schedule: ScheduleConfig, service: str) -> list[str]:
    return [
        f"# {service} knows no {name}: {time.isoformat()} is up to you"
        for name, time in (("start", schedule.start), ("end", schedule.end))
        if time is not None
    ]


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # Containers often run under a number without an account, which systemd takes as well.
        return str(os.getuid())


def on_calendar(schedule: ScheduleConfig) -> list[str]:
    """Converts a cron expression to systemd's calendar expressions.

    If both the day of the month and the day of the week are given, cron runs when either matches,
    but systemd requires both, so that case takes two lines.
    """
    expanded, _ = croniter.expand(schedule.cron)[:2]
    minute, hour, day, month, weekday = (
        "*" if values == ["*"] else ",".join(f"{int(value):02d}" for value in values)
        for values in expanded
    )
    names = ""
    if weekday != "*":
        names = ",".join(_DAYS[int(value) % 7] for value in expanded[_DAY_OF_WEEK]) + " "
    clock = f"{hour}:{minute}:00 {schedule.time_zone}"
    if day != "*" and names:
        return [f"*-{month}-{day} {clock}", f"{names}*-{month}-* {clock}"]
    return [f"{names}*-{month}-{day} {clock}"]


def next_starts(
    schedule: ScheduleConfig, count: int, *, now: datetime.datetime
) -> list[datetime.datetime]:
    """Returns the next starts between the schedule's start and end, in its time zone.

    Raises:
        InputError: if there is none.
    """
    import zoneinfo

    begin, end = schedule.instant(schedule.start), schedule.instant(schedule.end)
    base = max(now, begin) if begin is not None else now
    times = croniter(schedule.cron, base.astimezone(zoneinfo.ZoneInfo(schedule.time_zone)))
    found = []
    for _ in range(count):
        time = times.get_next(datetime.datetime)
        if end is not None and time > end:
            break
        found.append(time)
    if end is not None and not found:
        raise InputError(
            f"schedule: no run would start, because {schedule.cron!r} has no time from"
            f" {base:%Y-%m-%d %H:%M} to schedule.end, {end:%Y-%m-%d %H:%M}; set a later end"
        )
    return found
