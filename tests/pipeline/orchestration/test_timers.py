"""Lines for cron and units for systemd that start the local runner."""

import datetime
import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.orchestration.config import ScheduleConfig
from pipeline.orchestration.timers import crontab, next_starts, on_calendar, systemd_units
from pipeline.working_root import missing_parent, root_fault
from tests.forked import ROOT, vaeline
from tests.limits import HANG_SECS
from trainer.errors import InputError


@pytest.mark.parametrize(
    ("cron", "lines"),
    [
        ("0 3 * * *", ["*-*-* 03:00:00 UTC"]),
        ("*/20 1-3 * * 1-5", ["Mon,Tue,Wed,Thu,Fri *-*-* 01,02,03:00,20,40:00 UTC"]),
        ("5 4 1 6 *", ["*-06-01 04:05:00 UTC"]),
        ("0 0 * * 7", ["Sun *-*-* 00:00:00 UTC"]),
        ("0 0 1 * 1", ["*-*-01 00:00:00 UTC", "Mon *-*-* 00:00:00 UTC"]),
    ],
)
def test_cron_becomes_systemds_calendar(cron: str, lines: list[str]) -> None:
    assert on_calendar(ScheduleConfig(cron=cron)) == lines


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("cron", ["0 3 * * *", "*/20 1-3 * * 1-5", "0 0 1 * 1"])
def test_systemd_understands_it(cron: str) -> None:
    for line in on_calendar(ScheduleConfig(cron=cron, time_zone="Europe/Berlin")):
        subprocess.run(["systemd-analyze", "calendar", line], check=True, capture_output=True)


def test_a_crontab_line_is_one_line(tmp_path: Path) -> None:
    schedule = ScheduleConfig.model_validate(
        {"cron": "0 3 * * *", "time_zone": "Europe/Berlin", "end": "2027-01-01"}
    )
    text = crontab(schedule, ["vaeline", "--set", "a=50% b"], tmp_path, Path("/my configs"))
    note, hint, zone, line = text.splitlines()
    assert note.startswith("# cron knows no end")
    assert hint.startswith("# cronie reads CRON_TZ; other crons")
    assert zone == "CRON_TZ=Europe/Berlin"
    assert line == (
        f"0 3 * * * mkdir -p {tmp_path}/logs && cd '/my configs' &&"
        f" {{ date -Iseconds; vaeline --set 'a=50\\% b'; }} >> {tmp_path}/logs/cron.log 2>&1"
    )


def test_the_printed_line_runs_on_a_fresh_root_from_any_folder(tmp_path: Path) -> None:
    """With relative paths, and without the environment of a shell, as cron starts it."""
    folder = tmp_path / "my configs 100%"
    folder.mkdir()
    (folder / "a.zip").write_bytes(b"no zip")
    (folder / "c.yaml").write_text("input: {paths: a.zip}\nschedule: {cron: 0 3 * * 1}\n")
    arguments = ["schedule", "local", "--config", "c.yaml", "--root", "root", "--json"]
    printed = vaeline(*arguments, cwd=folder)
    assert printed.returncode == 0, printed.stderr
    *_, line = json.loads(printed.stdout)["units"]["crontab"].splitlines()
    assert line.startswith("0 3 * * 1 ")
    # Cron takes a backslash off a percent sign, and starts the rest with sh.
    command = line.removeprefix("0 3 * * 1 ").replace("\\%", "%")
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd="/", env=environment, timeout=HANG_SECS, check=False
    )
    assert done.returncode == 1
    log = (folder / "root" / "logs" / "cron.log").read_text()
    began, error = log.splitlines()
    assert datetime.datetime.fromisoformat(began).tzinfo, "else nobody can tell the days apart"
    assert error.startswith("error: a.zip: not a zip archive")
    comment = f"# until this changes, runs fail in {folder}: a.zip: not a zip archive"
    shown = vaeline(*arguments[:-1], "--root", "a/b/root", cwd=folder).stdout
    assert comment in " ".join(shown.split())
    assert f"# {folder}/a/b does not exist, and the first run makes it" in " ".join(shown.split())
    service = json.loads(vaeline(*arguments, "--systemd", cwd=folder).stdout)["units"]
    text = service["vaeline-vaeline.service"]
    assert f"WorkingDirectory={tmp_path}/my configs 100%%\n" in text
    if shutil.which("systemd-analyze"):
        for name, content in service.items():
            (tmp_path / name).write_text(content)
        units = [str(tmp_path / name) for name in service]
        subprocess.run(["systemd-analyze", "verify", *units], check=True)


def test_variables_that_cron_and_systemd_lack_are_named_without_values(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("input: {paths: 's3://images/a.zip'}\n")
    arguments = ("schedule", "local", "--config", str(config), "--root", str(tmp_path))
    access = {"AWS_SECRET_ACCESS_KEY": "hush", "AWS_ENDPOINT_URL": "http://minio", "EDITOR": "vi"}
    shown = vaeline(*arguments, environment=access).stdout
    assert "\n# set above the line, as they are in this shell: " in shown
    assert "AWS_ENDPOINT_URL, AWS_SECRET_ACCESS_KEY" in shown
    assert "hush" not in shown
    shown = vaeline(*arguments, "--systemd", environment=access).stdout
    assert "\n# set with Environment= in the service, as they are in this shell: " in shown
    config.write_text(f"input: {{paths: {tmp_path}/a.zip}}\n")
    assert "this shell" not in vaeline(*arguments, environment=access).stdout


def test_a_root_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root/pushed").mkdir(parents=True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "file").touch()
    allowed = os.access

    def access(path: Any, mode: int) -> bool:
        # What another user wrote; root, who may write everything, runs this test as well.
        return not str(path).endswith(("/pushed", "/theirs")) and allowed(path, mode)

    monkeypatch.setattr(os, "access", access)
    assert root_fault(tmp_path / "new") == missing_parent(tmp_path / "new") == ""
    for root in ("theirs", "theirs/a/b"):
        assert root_fault(tmp_path / root) == (
            f"{tmp_path}/theirs: this user may not write there; change its owner or mode, or give"
            " another folder with --root"
        )
    assert root_fault(tmp_path / "root").startswith(f"{tmp_path}/root/pushed: this user may not")
    assert root_fault(tmp_path / "file/x").startswith(f"{tmp_path}/file: a file, not a folder")


def test_backslashes_are_kept_and_line_breaks_refused() -> None:
    command = ["vaeline", "--set", r"input.paths='a\new\*.zip'"]
    service = systemd_units(ScheduleConfig(), command, "x", Path("/c"))["vaeline-x.service"]
    (line,) = re.findall("ExecStart=(.*)", service)
    # systemd takes escapes of C within single quotes, too.
    assert shlex.split(line.replace("\\\\", "\\")) == command
    for arguments, root in ((["vaeline", "a\nb"], "/r"), (["vaeline"], "/r\n")):
        with pytest.raises(InputError, match=r"\\n.*line break"):
            crontab(ScheduleConfig(), arguments, Path(root), Path("/c"))
    with pytest.raises(InputError, match="line break"):
        systemd_units(ScheduleConfig(), ["vaeline", "a\nb"], "x", Path("/c"))


def test_units_start_once_at_a_time_and_make_up_for_nothing() -> None:
    units = systemd_units(
        ScheduleConfig(), ["vaeline", "retrain", "--root", "/a b"], "flowers", Path("/c")
    )
    assert set(units) == {"vaeline-flowers.service", "vaeline-flowers.timer"}
    assert "ExecStart=vaeline retrain --root '/a b'" in units["vaeline-flowers.service"]
    assert "Type=oneshot" in units["vaeline-flowers.service"]
    assert "SuccessExitStatus=6" in units["vaeline-flowers.service"]
    # As root it would leave files that the user cannot write.
    assert f"User={pwd.getpwuid(os.getuid()).pw_name}\n" in units["vaeline-flowers.service"]
    assert "Persistent=false" in units["vaeline-flowers.timer"]


def test_a_timer_says_what_systemd_leaves_to_the_user() -> None:
    schedule = ScheduleConfig.model_validate({"start": "2027-01-01"})
    timer = systemd_units(schedule, ["vaeline"], "flowers", Path("/c"))["vaeline-flowers.timer"]
    assert "# systemd knows no start: 2027-01-01T00:00:00 is up to you\n" in timer


def test_starts_lie_between_start_and_end_in_their_zone() -> None:
    schedule: Any = ScheduleConfig.model_validate(
        {"time_zone": "Europe/Berlin", "start": "2027-03-27", "end": "2027-03-29T12:00:00"}
    )
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    times = [time.isoformat() for time in next_starts(schedule, 9, now=now)]
    # The clock goes forward on the 28th.
    assert times == [
        "2027-03-27T03:00:00+01:00",
        "2027-03-28T03:00:00+02:00",
        "2027-03-29T03:00:00+02:00",
    ]


def test_a_schedule_that_starts_nothing_is_refused() -> None:
    schedule: Any = ScheduleConfig.model_validate({"cron": "0 3 * * 1", "end": "2026-11-30"})
    now = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)
    with pytest.raises(InputError, match=r"to schedule\.end, 2026-11-30 00:00; set"):
        next_starts(schedule, 3, now=now)


@pytest.mark.parametrize("name", ["localtime", "right/UTC", "posixrules", "Europe/Berlim"])
def test_a_zone_that_each_machine_reads_differently_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="no time zone of that name; such as UTC"):
        ScheduleConfig.model_validate({"time_zone": name})
