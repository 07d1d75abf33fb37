"""Processes end with the code of their work, whatever libraries do at the end."""

import os
import subprocess
import sys

import pytest

_IMPORT = "import pyarrow.parquet"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "components.serving_check.process"],
        ["-c", f"from pipeline.cli import main; {_IMPORT}; main(['--version'])"],
        ["-c", f"from trainer.quick_imports import *\nwith quick_imports(): {_IMPORT}"],
    ],
    ids=["check", "command", "imports"],
)
def test_nothing_that_was_freed_is_used_at_the_end(arguments: list[str]) -> None:
    # The GNU C library overwrites what is freed, so that a late use of it fails each time.
    env = {**os.environ, "MALLOC_PERTURB_": "85"}
    ended = subprocess.run(
        [sys.executable, *arguments], env=env, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode()[-500:]
