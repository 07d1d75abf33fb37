"""What a terminal shows while two steps run."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.step_display import StepDisplay


class FakeTerminal:
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("vaeline.progress", logging.INFO, "", 0, message, (), None)


def in_new_thread(call: Callable[..., None], *arguments: Any) -> None:
    thread = threading.Thread(target=call, args=arguments)
    thread.start()
    thread.join()


def test_progress_belongs_to_the_step_of_its_thread() -> None:
    terminal, live = FakeTerminal(), list[str]()
    display = StepDisplay(terminal, live.append)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as aside:
        aside.submit(display.step, "ServingCheck", None).result()
        display.step("Evaluator", None)
        aside.submit(lambda: display.emit(record("16 checks passed"))).result()
        # As a thread of Beam, which no step runs in.
        in_new_thread(lambda: display.emit(record("233 images")))
        check = "check the export as a server loads it"
        assert live[-1] == f"{check}: 16 checks passed | evaluate: 233 images"
        display.step("Evaluator", 2.0)
        assert live[-1] == f"{check}: 16 checks passed"
        in_new_thread(lambda: display.emit(record("of no step")))
        aside.submit(display.step, "ServingCheck", 12.5).result()
    assert terminal.lines == [
        "       2.0 s  evaluate  233 images",
        f"      12.5 s  {check}  16 checks passed",
    ]
    assert display.seconds == {"Evaluator": 2.0, "ServingCheck": 12.5}
