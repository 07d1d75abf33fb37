"""Defines the shared parts of the commands: `--json`, error handling, exit codes and options."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from trainer.storage.addresses import names_bucket

EXIT_NOT_BLESSED = 3
"""Exit code of a completed run whose model was refused; schedulers can distinguish it from a
failure."""
EXIT_DRIFTED = 4
"""Exit code of a completed bulk job whose archive differs from the training data."""

config_option = click.option(
    "--config",
    "config_path",
    required=True,
    help="YAML file, or the name of a preset in configs/.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one value of the configuration; may be given several times.",
)


class _RootType(click.ParamType):
    """Converts the option `--root` to a text: an absolute path, or an address in a bucket."""

    name = "folder"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        text = str(value)
        if names_bucket(text):
            return text.rstrip("/")
        if "://" in text:
            self.fail(f"{text}: expected a folder, or gs://bucket/folder, s3:// or minio://")
        if not text.strip():
            self.fail("the name is empty; give a folder, such as . for the current one")
        if text.split("/", 1)[0] == "~":
            # Shells leave it in `--root=~/runs`.
            self.fail(f"{text}: ~ is not replaced here; write the whole path")
        if os.path.exists(text) and not os.path.isdir(text):
            self.fail(f"{text}: is a file; give a folder")
        # Artifacts are recorded by their absolute paths.
        return str(Path(text).resolve())


class _RootFolderType(click.ParamType):
    """Converts the option `--root` of commands that need a folder."""

    name = "folder"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        text = root_type.convert(value, param, ctx)
        if "://" in text:
            self.fail(f"{text}: this command needs a folder; copy the root to one")
        return Path(text)


root_type = _RootType()
root_folder_type = _RootFolderType()
runs_root_option = click.option(
    "--root", type=root_type, required=True, help="Folder of the runs; may be in a bucket."
)
logs_option = click.option(
    "--logs",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default=True,
    help="The log goes into logs/ in this folder.",
)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json` and reports every error in a line or two with the log's path.

    Args:
        command: Function that takes `terminal` and the command's options and returns the exit code.

    Returns:
        The function that click calls; it ends the process.
    """

    @click.option("--json", "as_json", is_flag=True, help="Last line on stdout: one JSON object.")
    @functools.wraps(command)
    def wrapper(*, as_json: bool, **arguments: Any) -> None:
        from pipeline.console import Terminal, fail, quiet_teardown, report_stop
        from pipeline.stop_signals import handle_stop_signals

        terminal = Terminal(as_json=as_json)
        with handle_stop_signals() as stop:
            try:
                code = command(terminal=terminal, **arguments)
            except KeyboardInterrupt:
                code = report_stop(terminal, stop)
            except Exception as error:
                # The outermost layer: the log has the full traceback, the user gets the cause.
                # Beam and TFX raise another error for an interruption.
                code = report_stop(terminal, stop) if stop.received else fail(terminal, error)
        quiet_teardown()
        sys.exit(code or 0)

    return wrapper
