"""Runs the `vaeline` command as `python -m pipeline.cli`."""

from pipeline.cli import main

main()
