"""Defines `vaeline doctor`: versions, devices and engines."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.command import common


@click.command()
@common
def doctor(terminal: Any) -> int:
    """Show versions, devices and engines, and what is missing for what."""
    from pipeline.console import captured_output
    from pipeline.doctor import as_dict, examine, is_healthy

    with captured_output(Path("/dev/null")):
        findings = examine()
    terminal.table(
        "vaeline doctor",
        [
            ("ok" if finding.found else ("MISSING" if finding.required else "-"), finding.name,
             finding.found or finding.remedy, finding.purpose)
            for finding in findings
        ],
        header=("", "what", "found, or how to get it", "for"),
    )  # fmt: skip
    healthy = is_healthy(findings)
    terminal.result({"healthy": healthy, "findings": as_dict(findings)})
    return 0 if healthy else 1
