"""Jobs that are killed again and again: their table is that of a job that nobody disturbed."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.bulk_inference.config import EngineConfig
from components.bulk_inference.output.ledger import Ledger
from tests.components.bulk_inference.archives import broken, digits, write_zip
from tests.components.bulk_inference.conftest import ReadTable
from tests.forked import Forked
from tests.limits import HANG_SECS


def killed_at_many_moments(
    engine: EngineConfig, tmp_path: Path, model: Path, read_table: ReadTable, *, kills: int
) -> None:
    """Kills a job at moments all over its time, and compares its output file by file."""
    archive = write_zip(tmp_path / "a.zip", digits(1000) | broken())
    arguments = [str(archive), str(model), str(tmp_path), str(kills), engine.model_dump_json()]
    printed = tmp_path / "printed.txt"
    driver = Forked("tests.components.bulk_inference.killed_driver", *arguments, output=printed)
    assert driver.wait() == 0, driver.text[-2000:]
    jobs = sorted(tmp_path.glob("killed*"))
    assert jobs
    for job in jobs:
        for part in ("table", "rejects"):
            assert read_table(job, part).equals(read_table(tmp_path / "whole", part))
        # A kill between the last file and the end leaves the lock, which the next job takes over.
        assert set(files_of(job)) - {"_lock.json"} == set(files_of(tmp_path / "whole"))


@contextmanager
def after_the_first_unit(ledger: Ledger, kill: Callable[[], None]) -> Iterator[list[int]]:
    """Kills something as soon as a job has finished a unit; gives the units finished by then."""
    finished: list[int] = []

    def wait_and_kill() -> None:
        deadline = time.monotonic() + HANG_SECS
        while not ledger.finished_names():
            assert time.monotonic() < deadline
        kill()
        finished.append(len(ledger.finished_names()))

    killer = threading.Thread(target=wait_and_kill)
    killer.start()
    yield finished
    killer.join()


def files_of(folder: Path) -> list[str]:
    """Relative paths of everything in a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
