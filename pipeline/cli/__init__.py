"""The `vaeline` command: `group.py` defines the group, other files one command or subgroup each."""

from pipeline.cli.group import main

__all__ = ["main"]
