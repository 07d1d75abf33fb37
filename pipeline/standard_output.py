"""Writes to standard output for as long as it can be written to.

A reader that went away (`| head`) or a full disk stops no job: what can't be written is discarded,
and the exit code tells. `cli/group.py` protects `sys.stdout` with it, `console.py` the rest.
"""

import contextlib
import errno
import io
import os
import sys
from typing import Any, Final, TextIO

_OUT: Final = 1
_ERROR: Final = 2
_EXIT_BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: what shells report of a program whose reader went away."""

_losses: list[OSError] = []
"""The first error of standard output in this process."""


def protect_standard_output() -> None:
    """Replaces `sys.stdout` by a stream that raises no error; opens streams that are closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file would get this number, and with it all output. Standard output
            # is opened for reading, so that writing to it remains an error.
            os.open(os.devnull, os.O_RDWR if number == _ERROR else os.O_RDONLY)
    if sys.stderr is None:
        sys.stderr = open(_ERROR, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if sys.stdout is not None:
        sys.stdout.flush()
    sys.stdout = _open(_OUT, _OUT, closefd=False)


def open_duplicate(stream: TextIO) -> TextIO:
    """Returns a stream with the target and the encoding of a standard one, which raises no error.

    Args:
        stream: `sys.stdout` or `sys.stderr`. The duplicate outlives a redirection of descriptors.
    """
    number = _ERROR if stream is sys.stderr else _OUT
    return _open(os.dup(stream.fileno()), number, encoding=getattr(stream, "encoding", None))


def exit_code(code: object) -> object:
    """Returns the exit code of a process: its own, or a failure if its output was lost."""
    sys.stdout.flush()
    if code or not _losses:
        return code
    return _EXIT_BROKEN_PIPE if _losses[0].errno == errno.EPIPE else 1


def _open(
    descriptor: int, number: int, *, encoding: str | None = None, closefd: bool = True
) -> TextIO:
    given = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    raw = _Discarding(descriptor, number, closefd=closefd)
    # Names of files may hold bytes that are no text, or characters that the encoding lacks.
    return io.TextIOWrapper(
        io.BufferedWriter(raw), given, errors="backslashreplace", line_buffering=raw.isatty()
    )


class _Discarding(io.FileIO):
    """Writes to a descriptor until the first error, and discards what comes after it.

    Args:
        descriptor: The descriptor.
        number: The standard stream that it belongs to, 1 or 2.
        closefd: Whether the descriptor is closed with this object.
    """

    def __init__(self, descriptor: int, number: int, *, closefd: bool) -> None:
        super().__init__(descriptor, "wb", closefd=closefd)
        self._is_lost = False
        # A duplicate, because standard error may be redirected when the first write fails.
        self._errors = os.dup(_ERROR) if number == _OUT else None

    def write(self, data: Any, /) -> int:
        """Writes a buffer of bytes, or pretends to."""
        if not self._is_lost:
            try:
                return super().write(data)
            except OSError as error:
                self._is_lost = True
                if self._errors is not None:
                    _report(error, self._errors)
        return memoryview(data).nbytes

    def close(self) -> None:
        """Closes the descriptor, if it is owned, and the duplicate."""
        super().close()
        if self._errors is not None:
            os.close(self._errors)
            self._errors = None


def _report(error: OSError, errors: int) -> None:
    """Notes that output was lost; says so once, unless its reader went away."""
    if not _losses and error.errno != errno.EPIPE:
        line = f"error: standard output: {error.strerror}; what follows is not shown\n"
        with contextlib.suppress(OSError):
            os.write(errors, line.encode())
    _losses.append(error)
