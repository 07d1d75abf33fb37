"""What every `vaeline` command has in common; the modules that define commands wrap them in it.

Importing it is cheap: the command's own imports happen when it runs.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

EXIT_NOT_BLESSED = 3
"""A run that worked but whose model was refused; schedulers tell it from a failure."""
EXIT_DRIFTED = 4
"""A bulk job that worked on an archive that differs from the training data."""
_EXIT_INTERRUPTED = 130

CONFIG_HELP = "YAML file, or the name of a preset in configs/."
SET_HELP = "Override one value of the configuration; may be given several times."


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json`, and turns every error into a line or two with the log's path."""

    @click.option("--json", "as_json", is_flag=True, help="Last line on stdout: one JSON object.")
    @functools.wraps(command)
    def wrapper(*, as_json: bool, **arguments: Any) -> None:
        from pipeline.console import Terminal, fail, quiet_teardown

        terminal = Terminal(as_json=as_json)
        try:
            code = command(terminal=terminal, **arguments)
        except KeyboardInterrupt:
            terminal.say("interrupted; what is finished stays, start again to go on", style="red")
            code = _EXIT_INTERRUPTED
        except Exception as error:
            # The outermost layer: the whole traceback is in the log, a person gets the cause.
            code = fail(terminal, error)
        quiet_teardown()
        sys.exit(code or 0)

    return wrapper
