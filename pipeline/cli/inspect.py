"""Defines `vaeline inspect`: what a run would find in its input, before any long work."""

import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli.command import common, logs_option, set_option


@click.command("inspect")
@click.argument("paths", nargs=-1)
@click.option("--config", "config_path",
              help="Configuration: estimates time, memory and disk of a run; its input is read"
                   " where no PATHS are given.")  # fmt: skip
@click.option("--full", is_flag=True, help="Read every image, not a sample of ten seconds.")
@logs_option
@set_option
@common
def inspect_(
    terminal: Any,
    paths: tuple[str, ...],
    config_path: str | None,
    full: bool,
    logs: Path,
    overrides: tuple[str, ...],
) -> int:
    """Show the classes, splits and faults of PATHS without training.

    PATHS are folders, archives, manifests or any other input of a run. A table has the classes by
    split; lines below it say what was taken for labels and splits, and warn of what looks wrong.
    """
    from pipeline.config import load_config, parse_input
    from pipeline.input_display import inspect_input

    if not paths and config_path is None:
        raise click.UsageError("Name PATHS to read, or a configuration with --config.")
    if config_path is None:
        run = None
        config = parse_input(paths, overrides=overrides)
    else:
        # JSON is YAML, and quotes any name.
        added = (f"input.paths={json.dumps(paths)}",) if paths else ()
        run = load_config(config_path, overrides=(*overrides, *added))
        config = run.input
    terminal.result(inspect_input(terminal, config, run, full=full, logs=logs))
    return 0
