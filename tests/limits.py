"""The one time limit of the tests: it only catches what hangs, however slow the machine is."""

from typing import Final

HANG_SECS: Final = 1800
"""Seconds after which a process, a request or a test counts as hanging. The longest normal one, a
whole pipeline run, takes 60 seconds on two idle cores; ten times that on a machine that is three
times as slow still passes."""
