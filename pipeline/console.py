"""Shows progress, tables and errors to users, and redirects all other output to a log file.

A TFX run on a small data set prints thousands of lines, some of them from C++ and outside Python's
logging. While a job runs, the standard output and error of the process are therefore redirected to
the log file, and this module keeps duplicates of the original ones.
"""

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.causes import cause
from pipeline.standard_output import open_duplicate
from pipeline.stop_signals import StopSignal
from trainer.errors import UserError
from trainer.json_text import json_text

_USUAL_WIDTH = 80
_MOST_UNFOLDED = 16
"""Characters up to which a column keeps its words whole."""
_CONTROLS = {code: f"\\x{code:02x}" for code in (0x1B, *range(0x80, 0xA0))}
"""Characters that begin commands to a terminal, which names in an archive of others may hold."""
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Terminal:
    """Shows progress and results of one command.

    Args:
        as_json: Whether the last line on standard output is one JSON object; progress and tables
            then go to standard error.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        # Duplicates of the descriptors outlive `captured_output`, which redirects 1 and 2.
        self._out: TextIO = open_duplicate(sys.stdout)
        target = open_duplicate(sys.stderr) if as_json else self._out
        self._console = Console(file=target, highlight=False, soft_wrap=True)
        if self._console.width < 1:
            # With COLUMNS=0 rich would print nothing at all.
            self._console.width = _USUAL_WIDTH

    def say(self, line: str, *, style: str | None = None) -> None:
        """Prints one line."""
        # Text and not markup, because file names may contain brackets.
        self._console.print(_text(line, style or ""))

    def table(self, title: str, rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> None:
        """Prints a table with plain-text cells, or a list of them where columns would be narrow."""
        lines = [header, *rows] if header else rows
        # No narrower than its longest word, so that numbers and dates stay whole; but paths may be
        # folded.
        widths = [
            min(
                _MOST_UNFOLDED,
                max(cell_len(word) for cell in column for word in cell.split() or [""]),
            )
            for column in zip(*lines, strict=True)
        ]
        if sum(widths) + 3 * len(widths) + 1 > self._console.width:
            self._list(title, rows, header)
            return
        table = Table(title=Text(title), title_justify="left", show_header=bool(header))
        for column, width in enumerate(widths):
            table.add_column(
                Text(header[column]) if header else "", overflow="fold", min_width=width
            )
        for row in rows:
            table.add_row(*map(_text, row))
        self._console.print(table)

    def _list(self, title: str, rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
        """Prints rows as lines `name: value`, and with a header each cell as one."""
        self.say(title, style="italic")
        for row in rows:
            if not header:
                self.say(f"{row[0]}: {', '.join(row[1:])}")
                continue
            self.say("")
            for name, cell in zip(header, row, strict=True):
                if cell:
                    self.say(f"{name}: {cell}" if name else cell)

    def result(self, values: Mapping[str, Any]) -> None:
        """Writes the results as the last line on standard output if `--json` is set."""
        if self._as_json:
            print(json_text(values, default=str), file=self._out, flush=True)

    @contextlib.contextmanager
    def live(self, message: str = "starting") -> Iterator[Callable[[str], None]]:
        """Shows a line that changes; shows nothing if the output is not a terminal.

        Args:
            message: Initial text of the line.

        Yields:
            A function that changes the line; it may be called from any thread.
        """
        if not self._console.is_terminal:
            yield lambda _: None
            return
        # The usual spinner is of characters that not every encoding has.
        spinner = "dots" if self._console.encoding.startswith("utf") else "line"
        with self._console.status(Text(message), spinner=spinner) as status:
            yield lambda text: status.update(Text(text))


class LogFileError(UserError, OSError):
    """Reports that the log of a command cannot be written."""


@contextlib.contextmanager
def captured_output(log_path: Path) -> Iterator[None]:
    """Redirects everything that this process and its children print or log to a file.

    Args:
        log_path: The file, created with its folders if missing; output is appended.

    Raises:
        LogFileError: The file cannot be written.
    """
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        file = log_path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise LogFileError(
            f"{log_path.parent}: no log can be written there: {error.strerror}; give another folder"
            " with --logs or --root"
        ) from error
    with _closed_at_last(file) as log:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        root = logging.getLogger()
        saved_handlers, saved_level = list(root.handlers), root.level
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter(_LOG_FORMAT))
        try:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            root.handlers[:] = [handler]
            root.setLevel(logging.INFO)
            logging.captureWarnings(True)
            # Needed if Python's streams are not descriptors 1 and 2, as in a notebook.
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
        finally:
            logging.captureWarnings(False)
            root.handlers[:] = saved_handlers
            root.setLevel(saved_level)
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])


@contextlib.contextmanager
def _closed_at_last(file: TextIO) -> Iterator[TextIO]:
    """Closes a log; what a full disk has left of it must not hide the error of the command."""
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()


def _text(line: str, style: str = "") -> Text:
    return Text(line.translate(_CONTROLS), style=style)


def quiet_teardown() -> None:
    """Shortens the shutdown of the interpreter, and discards what libraries print during it.

    TensorFlow's finalizers report errors ("Exception ignored in ...") when modules are already
    unloaded. All output for the user has been written by then. Collecting the objects of TFX and
    TensorFlow would take two seconds, and the end of the process frees them anyway.
    """
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), sys.stderr.fileno())


def duration(seconds: float) -> str:
    """Formats seconds as `8.3 s`, `2 min 05 s` or `1 h 02 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def with_breakdown(count: int, parts: Mapping[str, int]) -> str:
    """Formats a count with its parts, such as `3: empty (2), truncated (1)`."""
    return f"{count:,}: {breakdown(parts)}" if parts else f"{count:,}"


def breakdown(counts: Mapping[str, int], most: int = 12) -> str:
    """Formats counts by name, the largest first, and at most `most` of them."""
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} ({count:,})" for name, count in largest[:most])
    more = f", {len(largest) - most} more" if len(largest) > most else ""
    return shown + more


@contextlib.contextmanager
def logged(terminal: Terminal, log_path: Path) -> Iterator[None]:
    """Captures all output and the traceback of an error in a log file.

    Args:
        terminal: Output for the file's name and for `PROGRESS` records.
        log_path: The log file.

    Raises:
        Exception: The error of the body, with a note that names the file.
    """
    terminal.say(f"log: {log_path}", style="dim")
    with captured_output(log_path):
        try:
            yield
        except Exception as error:
            logging.getLogger("vaeline").exception("stopped by an error")
            error.add_note(f"full log: {log_path}")
            raise


@contextlib.contextmanager
def optional_report(terminal: Terminal) -> Iterator[None]:
    """Shows an error of a report as a note, because the job that it describes has succeeded."""
    try:
        yield
    except Exception as error:
        logging.getLogger("vaeline").exception("no report")
        terminal.say(f"no report: {cause(error)}", style="yellow")


def report_stop(terminal: Terminal, stop: StopSignal) -> int:
    """Says in a line that a signal ended the command.

    Returns:
        The exit code.
    """
    terminal.say(stop.line, style="red")
    terminal.result({"stopped": stop.line})
    return stop.exit_code


def fail(terminal: Terminal, error: Exception) -> int:
    """Shows an error in a line or two.

    Returns:
        The exit code: 1, or that of the error itself (75 after a preemption).
    """
    for line in cause(error).splitlines():
        terminal.say(f"error: {line}", style="bold red")
    for note in getattr(error, "__notes__", []):
        terminal.say(note, style="dim")
    terminal.result({"error": cause(error)})
    return int(getattr(error, "exit_code", 1))
