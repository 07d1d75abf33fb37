"""Shows the steps of a pipeline run as they start, progress and end."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from components.image_example_gen.input_overview import OVERVIEW
from pipeline.console import Terminal, duration
from pipeline.input_display import show_overview
from pipeline.runs.step import STEP_TITLES
from trainer.progress import PROGRESS_LOGGER


class StepDisplay(logging.Handler):
    """Shows a line for each finished step, and the running steps with their progress.

    Args:
        terminal: Output for finished steps.
        line: Function that changes the live line.

    Attributes:
        seconds: Duration of each finished step by name.
    """

    def __init__(self, terminal: Terminal, line: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._terminal = terminal
        self._line = line
        # Title and last progress record of the step that a thread runs.
        self._running: dict[int | None, tuple[str, str]] = {}
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Shows the progress records of project code within the block."""
        progress = logging.getLogger(PROGRESS_LOGGER)
        progress.addHandler(self)
        try:
            yield
        finally:
            progress.removeHandler(self)

    def step(self, name: str, seconds: float | None) -> None:
        """Handles the start (`seconds` is None) or the end of a step, in the step's thread."""
        thread = threading.get_ident()
        if seconds is None:
            self._running[thread] = (STEP_TITLES.get(name, name), "")
        else:
            self.seconds[name] = seconds
            title, detail = self._running.pop(thread)
            self._terminal.say(f"{duration(seconds):>12}  {title}{detail and f'  {detail}'}")
        self._show()

    def emit(self, record: logging.LogRecord) -> None:
        """Handles a progress record of project code."""
        # Beam's threads work for the step of the main thread.
        is_own = record.thread in self._running
        thread = record.thread if is_own else threading.main_thread().ident
        detail = record.getMessage()
        if thread in self._running:
            self._running[thread] = (self._running[thread][0], detail)
        if (overview := getattr(record, OVERVIEW, None)) is not None:
            show_overview(self._terminal, overview)
        self._show()

    def _show(self) -> None:
        steps = [
            f"{title}: {detail}" if detail else title
            for title, detail in list(self._running.values())
        ]
        self._line(" | ".join(steps))
