"""Defines `vaeline doctor`: versions, devices and engines, or the state of a root."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.command import common, root_folder_type


@click.command()
@click.option("--root", type=root_folder_type, default=None,
              help="Examine this folder of runs instead of the machine.")  # fmt: skip
@common
def doctor(terminal: Any, root: Path | None) -> int:
    """Show versions, devices and engines, and what is missing for what.

    With --root, show what is wrong with a folder of runs. Exit code 1 if something required is
    missing, or if the folder needs attention.
    """
    if root is not None:
        return _examine_root(terminal, root)
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


def _examine_root(terminal: Any, root: Path) -> int:
    from pipeline.root_doctor import WRONG, examine_root

    findings = examine_root(root)
    wrong = [finding for finding in findings if finding.state == WRONG]
    terminal.table(
        f"vaeline doctor: {root}",
        [(finding.state, finding.name, finding.found, finding.remedy) for finding in findings],
        header=("", "what", "found", "what to do"),
    )
    if wrong:
        terminal.say(f"{len(wrong)} of {len(findings)} need attention", style="bold red")
    else:
        terminal.say("nothing needs attention")
    terminal.result(
        {
            "healthy": not wrong,
            "root": str(root),
            "findings": {finding.name: finding.as_dict() for finding in findings},
        }
    )
    return 1 if wrong else 0
