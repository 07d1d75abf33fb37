"""Jobs that are killed again and again: their table is that of a job that nobody disturbed."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.bulk_inference.config import EngineConfig
from components.bulk_inference.output.ledger import Ledger
from tests.components.bulk_inference.archives import broken, digits, write_zip
from tests.components.bulk_inference.conftest import ReadTable
from tests.limits import HANG_SECS

DRIVER = """
import os, signal, sys, time
from trainer.quick_imports import quick_imports
with quick_imports():
    import apache_beam, tensorflow, keras, cv2, pyarrow.dataset, matplotlib.figure
    from components.bulk_inference.annotation import transforms, unit
    from components.bulk_inference.config import BulkConfig, EngineConfig
    from components.bulk_inference.job import run_bulk
    from components.bulk_inference.running import engines
    from components.image_sources.config import InputConfig, UnitsConfig

archive, model, folder, moments, engine = sys.argv[1:]
inputs = InputConfig(paths=archive, units=UnitsConfig(members=64, batch=32))


def start(output):
    # Forked before TensorFlow has done anything but be imported, so each start takes no imports.
    child = os.fork()
    if child == 0:
        where = {"model": model, "output": os.path.join(folder, output)}
        run_bulk(BulkConfig(input=inputs, engine=EngineConfig.model_validate_json(engine), **where))
        os._exit(0)
    return child


begin = time.monotonic()
assert os.waitpid(start("whole"), 0)[1] == 0
seconds = time.monotonic() - begin
moments = int(moments)
for moment in range(moments):
    child = start("killed")
    # 5 has no divisor in common with their number, so the moments come in no order.
    time.sleep(seconds * (5 * moment % moments + 0.5) / moments)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if os.path.exists(os.path.join(folder, "killed", "_manifest.json")):
        # Done before the kill: the next moments start on an empty output.
        os.rename(os.path.join(folder, "killed"), os.path.join(folder, f"killed_{moment}"))
assert os.waitpid(start("killed"), 0)[1] == 0
"""


def killed_at_many_moments(
    engine: EngineConfig, tmp_path: Path, model: Path, read_table: ReadTable, *, kills: int
) -> None:
    """Kills a job at moments all over its time, and compares its output file by file."""
    archive = write_zip(tmp_path / "a.zip", digits(1000) | broken())
    command = [sys.executable, "-c", DRIVER, str(archive), str(model), str(tmp_path), str(kills)]
    done = subprocess.run(
        [*command, engine.model_dump_json()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
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
