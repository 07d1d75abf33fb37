"""Defines `vaeline config`: the whole configuration, as a run would use it."""

from typing import Any

import click

from pipeline.cli.command import common, config_option, set_option


@click.command()
@config_option
@set_option
@common
def config(terminal: Any, config_path: str, overrides: tuple[str, ...]) -> int:
    """Print the configuration with all defaults, and with the options of its recipe.

    The output is YAML and can be loaded again.
    """
    from pipeline.config import load_config, to_yaml

    loaded = load_config(config_path, overrides=overrides)
    terminal.say(to_yaml(loaded).rstrip())
    terminal.result(loaded.model_dump(mode="json", by_alias=True))
    return 0
