"""Starts a module in a fork of a process that has imported TensorFlow, as `python -m MODULE` would.

A fork is a process of its own, with its own kernels, threads and signals. It only shares the
seconds of imports, which tests that need fresh processes would otherwise spend each time.
"""

import multiprocessing
import os
import runpy
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.limits import HANG_SECS

ROOT = Path(__file__).resolve().parents[1]
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.forked_imports"])


class Forked:
    """A module that runs.

    Args:
        module: As for `python -m`.
        arguments: Its arguments.
        output: File for what it prints, standard error included.
        environment: Variables to set; None removes one.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        output: Path,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        self._output = output
        output.touch()
        given = (module, arguments, str(output), dict(environment or {}))
        self._process: Any = _SERVER.Process(target=_run, args=given)
        # The server inherits them when it starts; later it is there already.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT))
            patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
            self._process.start()

    def lines(self) -> Iterator[str]:
        """Yields what it prints, line by line, until it ends."""
        with self._output.open(encoding="utf-8") as file:
            rest = ""
            while True:
                is_over = not self._process.is_alive()
                rest += file.read()
                *whole, rest = rest.split("\n")
                yield from whole
                if is_over:
                    return
                time.sleep(0.02)

    def send(self, signal_number: int) -> None:
        """Sends a signal."""
        os.kill(self._process.pid, signal_number)

    def wait(self) -> int:
        """Waits for its end; the exit code, negative for a signal."""
        self._process.join(HANG_SECS)
        assert self._process.exitcode is not None, "it hangs"
        return int(self._process.exitcode)

    @property
    def text(self) -> str:
        """What it printed so far."""
        return self._output.read_text(encoding="utf-8")


def _run(
    module: str, arguments: tuple[str, ...], output: str, environment: dict[str, str | None]
) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(ROOT)
    run_as_program(module, arguments, output)


def run_as_program(module: str, arguments: Sequence[str], output: str) -> NoReturn:
    """Runs a module as `python -m MODULE` would, prints to a file, and ends this process."""
    with open(output, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
