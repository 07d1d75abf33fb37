"""Keeps a small record of each finished unit next to its rows.

The record is written last and atomically, so a unit is finished exactly when its record exists.
Workers write records; the job reads them to resume, to count and to summarise.
"""

import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from components import locks
from components.bulk_inference.config import BulkConfig
from components.bulk_inference.output.counts import Counts
from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.failures import OutputError, StorageError

RECORDS: Final = "_units"
HASHES: Final = "_hashes"
IDENTITY: Final = "_job.json"
LOCK: Final = "_lock"
MANIFEST: Final = "_manifest.json"
TABLE: Final = "table"
REJECTS: Final = "rejects"
DUPLICATES: Final = "duplicates"
SUFFIXES: Final = {
    "parquet": ".parquet",
    "jsonl": ".jsonl",
    "csv": ".csv",
    "tfrecord": ".tfrecord",
    "npy": ".npy",
}
"""Suffixes of shards by format."""
DRIFT_FILES: Final = ("drift.json", "drift.md", "drift.png")
REPORT: Final = "report.html"
"""Report that the command line writes next to the table; removed when the table is rebuilt."""


@dataclass
class UnitRecord(Counts):
    """Records the outcome of one unit.

    Attributes:
        name: Name of the planned unit.
        source: The archive.
        ignored_by_reason: Their count and examples, see `NamedCounts.to_json`.
        renamed: Class names that could not be kept, see `MemberBatch.renamed`.
        reused: Rows reused from an earlier version of the archive.
        files: Files written, relative to the output, with their sizes in bytes.
        reasons: Rejects by `stage/reason`.
        labels: Rows by predicted label, if the table has that column.
        verdicts: Rows by verdict.
        seconds: Wall time of the unit.
        batch_limit: Largest number of images per model call at the end of the unit.
        drift: Sums for the drift report.
    """

    name: str
    source: str
    ignored_by_reason: dict[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    reused: int = 0
    files: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    batch_limit: int = 0
    drift: dict[str, Any] = field(default_factory=dict)


@contextmanager
def exclusive(output: str) -> Iterator[None]:
    """Keeps other jobs out of an output while the block runs.

    Args:
        output: The job's folder, which must be writable.

    Raises:
        InputError: if another job holds the lock; the message names it.
    """

    def refusal(owner: locks.Owner | None) -> InputError:
        who = f"process {owner.pid} on {owner.host}" if owner else "an unknown process"
        return InputError(
            f"{output}: another job writes there, {who}; wait for it, stop it, or name another"
            " output"
        )

    with locks.hold(posixpath.join(output, LOCK), "a bulk job", refusal=refusal):
        yield


def record_path(output: str, name: str) -> str:
    """Returns the path of a unit's record."""
    return posixpath.join(output, RECORDS, f"{name}.json")


def shard_path(name: str, config: BulkConfig) -> str:
    """Returns the path of a unit's rows, relative to the output."""
    archive, part = name.split("/")
    folder = f"archive={archive}" if config.partition_by == "archive" else ""
    stem = f"part-{part}" if config.partition_by == "archive" else f"part-{archive}-{part}"
    return posixpath.join(TABLE, folder, stem + SUFFIXES[config.format])


def write_record(output: str, record: UnitRecord) -> None:
    """Writes a record, which marks the unit as finished."""
    content = json.dumps(asdict(record), sort_keys=True).encode()
    files.write_bytes(record_path(output, record.name), content)


def read_record(output: str, name: str) -> UnitRecord:
    """Reads the record of a finished unit."""
    return UnitRecord(**json.loads(files.read_bytes(record_path(output, name))))


def finished_names(output: str) -> set[str]:
    """Returns the names of the finished units."""
    return {
        name.removesuffix(".json")
        for name in files.walk(posixpath.join(output, RECORDS))
        if name.endswith(".json") and files.TEMPORARY not in name
    }


def write_error(output: str, name: str, message: str) -> None:
    """Writes the reason why a unit's archive is unusable; the job reads it and fails."""
    files.write_bytes(posixpath.join(output, RECORDS, f"{name}.error"), message.encode())


def read_error(output: str, name: str) -> str:
    """Reads the reason why a unit failed."""
    path = posixpath.join(output, RECORDS, f"{name}.error")
    try:
        message = files.read_bytes(path).decode()
    except FileNotFoundError:
        return f"{output}: the unit {name} was not done; run the job again"
    files.remove(path)
    return message


def read_unit_records(output: str, names: list[str]) -> Iterator[UnitRecord]:
    """Reads the records of units in the given order."""
    contents = files.read_each(record_path(output, name) for name in names)
    return (UnitRecord(**json.loads(content)) for content in contents)


def forget(output: str, name: str) -> None:
    """Removes a unit, the record first, so that a crash leaves no record without its rows."""
    record = read_record(output, name)
    files.remove(record_path(output, name))
    for file in record.files:
        files.remove(posixpath.join(output, file))


def clear(output: str) -> None:
    """Removes a job's results, the records first."""
    for part in (
        RECORDS,
        HASHES,
        MANIFEST,
        TABLE,
        REJECTS,
        DUPLICATES,
        *DRIFT_FILES,
        REPORT,
        IDENTITY,
    ):
        files.remove(posixpath.join(output, part))


def remove_unfinished(folder: str) -> None:
    """Removes the temporary files that a killed job left behind."""
    if not files.is_remote(folder):
        for left in Path(folder).rglob(f"{files.TEMPORARY}*"):
            left.unlink(missing_ok=True)


def require_writable(folder: str) -> None:
    """Creates a folder and checks that it is writable.

    Raises:
        OutputError: if it is not.
    """
    probe = f"{folder.rstrip('/')}/{files.TEMPORARY}probe"
    try:
        files.write_bytes(probe, b"")
        files.remove(probe)
    except OutputError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.reason
        raise OutputError(folder, f"the output cannot be written: {reason}") from error
    except StorageError:
        raise
    except OSError as error:
        raise OutputError(
            folder, f"the output cannot be written: {error.strerror or error}"
        ) from error
