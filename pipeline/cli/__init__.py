"""The `vaeline` command: `group.py` holds the group, and one file each command or group of them."""

from pipeline.cli.group import main

__all__ = ["main"]
