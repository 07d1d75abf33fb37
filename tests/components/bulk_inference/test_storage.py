"""Where a job writes: in Cloud Storage, into a folder that another job holds, onto a full disk."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import locks
from components.bulk_inference.output import ledger
from tests import emulators
from tests.components.bulk_inference.archives import broken, digits, write_zip
from tests.components.bulk_inference.conftest import ReadTable, RunJob
from tests.components.bulk_inference.model_fixture import copy_model
from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.failures import OutputError, StorageError


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty bucket of an emulator; gives its address."""
    if request.param == "gs":
        with emulators.cloud_storage() as address, emulators.reached_at(address) as client:
            client.create_bucket("bulk")
            yield "gs://bulk"
    else:
        with emulators.s3() as client:
            client.create_bucket(Bucket="bulk")
            yield "s3://bulk"


def upload(folder: Path, address: str) -> None:
    for name in files.walk(str(folder)):
        files.write_bytes(f"{address}/{name}", (folder / name).read_bytes())


def read_remote(output: str, part: str) -> pa.Table:
    names = sorted(files.walk(f"{output}/{part}"))
    contents = files.read_each(f"{output}/{part}/{name}" for name in names)
    return pa.concat_tables([pq.ParquetFile(io.BytesIO(each)).read() for each in contents])


def test_archive_model_and_output_in_cloud_storage(
    bucket: str, tmp_path: Path, model: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(40) | broken())
    files.write_bytes(f"{bucket}/in/a.zip", archive.read_bytes())
    upload(model, f"{bucket}/models/3")
    columns = ("member", "sha256", "label", "embedding", "elbo")
    run_job(archive, columns=columns)
    remote = {"model": f"{bucket}/models", "output": f"{bucket}/out", "columns": columns}
    result = run_job(f"{bucket}/in/a.zip", **remote)
    assert (result.members, result.rows, result.rejects) == (47, 40, 7)
    assert result.model == f"{bucket}/models/3"
    expected = read_table(tmp_path / "out")
    assert read_remote(f"{bucket}/out", "table").to_pydict() == expected.to_pydict()
    assert len(read_remote(f"{bucket}/out", "rejects")) == 7

    again = run_job(f"{bucket}/in/a.zip", **remote)
    assert (again.units_done_now, again.rows) == (0, 40)
    bytes_before = files.read_bytes(f"{bucket}/out/_manifest.json")
    assert json.loads(bytes_before)["counts"]["rows"] == 40
    assert not files.exists(f"{bucket}/out/{ledger.LOCK}")

    other = copy_model(model, tmp_path / "other", digests={"model": "model-8"})
    result = run_job(f"{bucket}/in/a.zip", **{**remote, "model": str(other)})
    assert result.units_done_now == 3
    assert "model" in result.notes[0]


def test_a_bucket_that_is_not_there_gets_one_line(
    bucket: str, tmp_path: Path, run_job: RunJob
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(2))
    missing = bucket.replace("bulk", "none")
    with pytest.raises(InputError, match=rf"^{missing}/out/\S+: no such bucket$"):
        run_job(archive, output=f"{missing}/out")
    with pytest.raises(InputError, match=r"ftp://x/out\S*: ftp:// is not supported"):
        run_job(archive, output="ftp://x/out")


def test_an_output_takes_one_job_at_a_time(tmp_path: Path, run_job: RunJob) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(20))
    run_job(archive)
    with (
        ledger.Ledger(str(tmp_path / "out")).exclusive(),
        pytest.raises(InputError, match=rf"another job writes there, process {os.getpid()} on "),
    ):
        run_job(archive, overwrite=True)
    assert run_job(archive).units_done_now == 0


HOLDER = """
import sys, time
from components.bulk_inference.output import ledger
with ledger.Ledger(sys.argv[1]).exclusive():
    print("held", flush=True)
    time.sleep(7200)
"""


@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_killed_job_leaves_no_lock(
    place: str, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path) if place == "local" else f"{bucket}/locked"
    command = [sys.executable, "-c", HOLDER, output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        if place == "local":
            with (
                pytest.raises(InputError, match="another job writes there"),
                ledger.Ledger(output).exclusive(),
            ):
                pass
        holder.kill()
    with ledger.Ledger(output).exclusive():
        pass


def test_a_lock_object_that_is_renewed_is_respected_and_a_still_one_taken(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_HEARTBEAT_SECS", 0.1)
    monkeypatch.setattr(locks, "_STALE_SECS", 1.0)
    output = f"{bucket}/beating"
    with (
        ledger.Ledger(output).exclusive(),
        pytest.raises(InputError, match=f"{output}: another job"),
        ledger.Ledger(output).exclusive(),
    ):
        pass
    files.write_bytes(f"{output}/{ledger.LOCK}", b'{"host": "elsewhere", "process": 1}')
    with ledger.Ledger(output).exclusive():
        assert b"elsewhere" not in files.read_bytes(f"{output}/{ledger.LOCK}")


def test_a_lock_object_that_cannot_be_removed_hides_no_error_and_fails_no_job(
    bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: str) -> None:
        raise StorageError(path, "did not answer")

    monkeypatch.setattr(files, "remove", fail)
    with ledger.Ledger(f"{bucket}/one").exclusive():
        pass
    assert f"{bucket}/one/{ledger.LOCK}: not removed: " in caplog.text
    with (
        pytest.raises(InputError, match="the table cannot be written"),
        ledger.Ledger(f"{bucket}/two").exclusive(),
    ):
        raise InputError("the table cannot be written")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device; make room or name another output"),
        (errno.EACCES, "Permission denied; check its owner, mode and mount or name"),
    ],
)
def test_a_full_disk_gets_one_line_and_leaves_no_half_file(
    number: int, message: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "x" / "shard")

    def write() -> None:
        with files.writing(path) as file:
            file.write(b"half")
            raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match=f"shard: cannot be written: {message}"):
        write()
    assert list(files.walk(str(tmp_path))) == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("saved_model.pb", b"x", "the model does not load: .*; push it again"),
        ("variables/variables.index", None, "the model does not load: .*; push it again"),
        ("variables/variables.data-00000-of-00001", b"short", "or copy its whole folder again"),
        ("assets.extra/model.json", b"{}", "'image_shape' is missing; push the model again"),
        ("assets.extra/model.json", b"{", "push the model again"),
    ],
)
def test_a_damaged_model_gets_one_line(
    file: str, content: bytes | None, message: str, tmp_path: Path, run_job: RunJob, model: Path
) -> None:
    damaged = copy_model(model, tmp_path / "m")
    (damaged / file).unlink()
    if content is not None:
        (damaged / file).write_bytes(content)
    with pytest.raises(Exception, match=message) as caught:
        run_job(write_zip(tmp_path / "a.zip", digits(2)), model=str(damaged))
    assert str(damaged) in str(caught.value)
