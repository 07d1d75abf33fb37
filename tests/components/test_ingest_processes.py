"""Ingest by processes of its own: the same files as by Beam, and no end but a clear one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from components.image_example_gen import local_run, workers
from components.image_example_gen.account import Account
from components.image_example_gen.ingest import ingest
from components.image_sources.base import WorkUnit
from components.image_sources.config import InputConfig
from tests import archives
from tests.components import failing_worker
from tests.limits import HANG_SECS
from trainer.errors import InputError

LOCAL = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]


def run(output: Path, processes: int | None, **config: Any) -> Account:
    config.setdefault("units", {"members": 20, "batch": 8})
    return ingest(
        InputConfig.model_validate(config),
        str(output),
        lambda: beam.Pipeline(argv=LOCAL),
        processes=processes,
    )


def files_of(output: Path) -> dict[str, bytes]:
    """Content of all files of splits."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.glob("Split-*/*.tfrecord")
    }


def children(pid: int | str = "self") -> list[str]:
    """Processes right below one."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end while they are listed.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += (task / "children").read_text().split()
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process stays behind; other tests may have left one that serves them all."""
    before = set(children())
    yield
    assert set(children()) <= before


@pytest.mark.parametrize(("name", "duplicates"), [("a.zip", "drop"), ("tree", "keep")])
def test_same_files_as_by_beam(tmp_path: Path, name: str, duplicates: str) -> None:
    bad = {name: data for name, (data, _) in archives.defects().items()}
    files = {**archives.classes(20), **bad, "cat/16.png": archives.png16()}
    files |= {f"dog/same-{i}.png": archives.png(i) for i in range(12)}
    config = {
        "paths": str(archives.write(tmp_path / name, files)),
        "duplicates": duplicates,
        "max_rejected_share": 0.9,
        "limits": {"max_bytes": 100_000},
    }
    by_beam = run(tmp_path / "beam", 0, **config)
    by_processes = run(tmp_path / "processes", 2, **config)
    by_beam.seconds = by_processes.seconds = 0.0
    assert by_processes == by_beam
    assert by_beam.conflicts == 12
    assert by_beam.rejected.total() == len(bad)
    assert files_of(tmp_path / "processes") == files_of(tmp_path / "beam")
    for table in ("rejects.parquet", "duplicates.parquet"):
        here, there = (pq.read_table(tmp_path / side / table) for side in ("processes", "beam"))
        assert here.equals(there)


@pytest.mark.parametrize(
    ("width", "error", "message"),
    [
        (failing_worker.CRASH, InputError, r"a\.zip/cat/x\.png: .* SIGSEGV, twice: .*; remove it"),
        (failing_worker.BUG, KeyError, "a bug"),
    ],
)
def test_fault_in_a_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(workers, "_MODULE", failing_worker.__name__)
    files = {**archives.classes(20), "cat/x.png": archives.png(5, width=width)}
    path = archives.write(tmp_path / "a.zip", files)
    with pytest.raises(error, match=message) as caught:
        run(tmp_path / "out", 2, paths=str(path))
    assert "\n" not in str(caught.value)


def test_process_that_is_killed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_MODULE", failing_worker.__name__)
    files = {**archives.classes(20), "cat/x.png": archives.png(5, width=failing_worker.CRASH)}
    path = archives.write(tmp_path / "a.zip", files)
    begin = workers.Workers._start

    def heal(self: workers.Workers) -> Any:
        if len(self._running) == 2:
            # The one that is to find the image meets no crash.
            monkeypatch.setattr(workers, "_MODULE", "components.image_example_gen.worker")
        return begin(self)

    monkeypatch.setattr(workers.Workers, "_start", heal)
    with pytest.raises(InputError, match=r"a\.zip: .*SIGSEGV.* more memory or fewer processes"):
        run(tmp_path / "out", 2, paths=str(path))


def test_fault_of_a_source_or_the_output(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "a.tar.gz", archives.classes(30))
    path.write_bytes(path.read_bytes()[:-900])
    whole = archives.write(tmp_path / "b.tar.gz", archives.classes(3))
    with pytest.raises(InputError, match=r"a\.tar\.gz: .*cut short"):
        run(tmp_path / "out", 2, paths=[str(path), str(whole)], format="tar")


def test_machine_without_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = archives.write(tmp_path / "a.zip", archives.classes(20))
    monkeypatch.setattr(workers, "_MODULE", "components.no_such_module")
    account = run(tmp_path / "out", 2, paths=str(path))
    assert account.examples.total() == 60
    assert (
        "no worker processes (a process ended with code 1 as it started); continuing" in caplog.text
    )


def test_when_processes_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(members: list[int], cores: int, *args: str) -> int:
        units = [WorkUnit(i, "a", "zip", members=count) for i, count in enumerate(members)]
        pipeline = beam.Pipeline(options=PipelineOptions(args or LOCAL))
        return local_run.choose_processes(pipeline, units, cores)

    assert choose([8192] * 9, 2) == 2
    assert choose([8192] * 9, 1) == 0
    assert choose([8192] * 9, 64) == 9
    assert choose([8192] * 99, 64) == 16
    assert choose([8192, 3000], 2) == 0
    assert choose([-1], 2) == 0
    assert choose([-1, -1], 8) == 2
    assert choose([8192] * 9, 2, "--runner=FnApiRunner") == 2
    several = ("--runner=DirectRunner", "--direct_running_mode=multi_processing")
    assert choose([8192] * 9, 2, *several) == 0


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(tmp_path: Path, sent: signal.Signals) -> None:
    files = {f"cat/{i}.png": archives.png(i, width=failing_worker.SLEEP) for i in range(4)}
    path = archives.write(tmp_path / "a.zip", files)
    script = (
        # A suite that runs in the background of a shell script inherits that SIGINT is ignored.
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from components.image_example_gen import workers\n"
        "from components.image_example_gen.ingest_job import IngestJob\n"
        "from components.image_sources.config import InputConfig\n"
        "from components.image_sources.sources import ImageSource\n"
        f"workers._MODULE = {failing_worker.__name__!r}\n"
        f"config = InputConfig(paths=({str(path)!r},), units={{'members': 2}})\n"
        f"with workers.Workers(2, IngestJob(config), {str(tmp_path / 'out')!r}, 1) as running:\n"
        "    print('ready', flush=True)\n"
        "    list(running.write(list(ImageSource(config).units())))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    below = children(process.pid)
    assert len(below) == 2
    # As a terminal does it, to all of them.
    os.killpg(process.pid, sent) if sent == signal.SIGINT else process.kill()
    assert process.wait(HANG_SECS) != 0
    deadline = time.monotonic() + HANG_SECS
    while any(is_running(child) for child in below) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(child) for child in below)


def is_running(pid: str) -> bool:
    """Tells whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
