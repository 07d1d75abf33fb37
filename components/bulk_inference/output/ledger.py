"""Keeps a small record of each finished unit next to its rows.

The record is written last and atomically, so a unit is finished exactly when its record exists.
Workers write records; the job reads them to resume, to count and to summarise.
"""

import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from components import locks
from components.bulk_inference.config import BulkConfig
from components.bulk_inference.output.counts import Counts
from components.bulk_inference.output.kept_answers import keep_answers
from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.failures import OutputError, StorageError

RECORDS: Final = "_units"
HASHES: Final = "_hashes"
NEAR: Final = "_near"
INDEX: Final = "_index"
"""Folder of the indexes of tars, which outlast a change of the model."""
NEAR_DUPLICATES: Final = "near_duplicates.parquet"
IDENTITY: Final = "_job.json"
LOCK: Final = "_lock"
MANIFEST: Final = "_manifest.json"
TABLE: Final = "table"
REJECTS: Final = "rejects"
DUPLICATES: Final = "duplicates"
REVIEW: Final = "review"
"""Folder of the queue that `components/review` makes of the table."""
ADJUSTED: Final = "adjusted"
"""Folder of the labels that are adjusted to the archive's class mix."""
REVIEWED: Final = "reviewed"
"""Folder of the table with people's answers."""
SUFFIXES: Final = {name: f".{name}" for name in ("parquet", "jsonl", "csv", "tfrecord", "npy")}
"""Suffixes of shards by format."""
DRIFT_FILES: Final = ("drift.json", "drift.md", "drift.png")
_OF_A_UNIT: Final = re.compile(r"\d{6,}-[0-9a-f]{16}\.[^/]*$")
UNKNOWN_LABEL: Final = "given label"
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
        repeated: Images with the name of an earlier one of their archive, as `NamedCounts.to_json`.
        reused: Rows reused from an earlier version of the archive.
        files: Files written, relative to the output, with their sizes in bytes.
        reasons: Rejects by `stage/reason`.
        unknown: Given labels that are numbers and no class of the model, as
            `NamedCounts.to_json`; empty where folders name the classes, which may be years.
        labels: Rows by predicted label, if the table has that column.
        verdicts: Rows by verdict.
        findings: Rows by finding.
        with_findings: Rows with any finding.
        seconds: Wall time of the unit.
        batch_limit: Largest number of images per model call at the end of the unit.
        drift: Sums for the drift report.
    """

    name: str
    source: str
    ignored_by_reason: dict[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, Any] = field(default_factory=dict)
    reused: int = 0
    files: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)
    with_findings: int = 0
    seconds: float = 0.0
    batch_limit: int = 0
    drift: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """Reads and writes the files of one job.

    Args:
        output: The job's folder, local, `gs://` or `s3://`. Names of files are relative to it.
    """

    def __init__(self, output: str) -> None:
        self.output = output

    def path(self, name: str) -> str:
        """Returns the full path of a file."""
        return posixpath.join(self.output, name)

    def read(self, name: str) -> bytes:
        """Reads a file; raises FileNotFoundError if it is missing."""
        return files.read_bytes(self.path(name))

    def exists(self, name: str) -> bool:
        """Returns whether there is a file."""
        return files.exists(self.path(name))

    def write(self, name: str, content: bytes) -> None:
        """Writes a file atomically."""
        files.write_bytes(self.path(name), content)

    def remove(self, name: str) -> None:
        """Removes a file or a folder, if it is there."""
        files.remove(self.path(name))

    def exclusive(self) -> AbstractContextManager[object]:
        """Keeps other jobs out of the output, which must be writable, while the block runs.

        Raises:
            InputError: if another job holds the lock; the message names it.
        """

        def refusal(owner: locks.Owner | None) -> InputError:
            who = f"process {owner.pid} on {owner.host}" if owner else "an unknown process"
            return InputError(
                f"{self.output}: another job writes there, {who}; wait for it, stop it, or name"
                " another output"
            )

        return locks.hold(self.path(LOCK), "a bulk job", refusal=refusal)

    def read_identity(self) -> dict[str, Any] | None:
        """Reads the identity of the job that wrote the output; None if no job did."""
        try:
            content = self.read(IDENTITY)
        except FileNotFoundError:
            return None
        # A store that does not answer is a ValueError as well, and no foreign output.
        try:
            identity: dict[str, Any] = json.loads(content)
        except ValueError:
            return None
        return identity

    def settle(self, wanted: dict[str, Any], *, overwrite: bool, may_restart: bool) -> list[str]:
        """Clears an output that belongs to another job.

        Args:
            wanted: The identity of this job.
            overwrite: Whether to start afresh whatever the output holds.
            may_restart: Whether a table of another job may be replaced without that.

        Returns:
            Notes with the reason.

        Raises:
            InputError: if the output may not be used.
        """
        found = self.read_identity()
        notes = []
        if found is None:
            others = [name for name in files.list_names(self.output) if name[:1] not in "._"]
            if others and not overwrite:
                raise InputError(
                    f"{self.output}: holds {others[0]!r}, which no bulk job wrote; name another"
                    " folder, or pass --overwrite to write beside it"
                )
        elif overwrite:
            notes.append("started afresh: --overwrite")
        elif found == wanted:
            self.remove_unfinished()
            return notes
        else:
            changed = ", ".join(_differences(found, wanted))
            if not may_restart:
                raise InputError(
                    f"{self.output}: its table differs in {changed}; name another"
                    " folder, or pass --overwrite"
                )
            notes.append(f"started afresh: {changed} changed since the table was made")
        notes.extend(keep_answers(self.output, REVIEW, REVIEWED))
        self.clear()
        self.write(IDENTITY, json.dumps(wanted, indent=2, sort_keys=True).encode())
        return notes

    def write_record(self, record: UnitRecord) -> None:
        """Writes a record, which marks the unit as finished."""
        self.write(_record(record.name), json.dumps(asdict(record), sort_keys=True).encode())

    def read_record(self, name: str) -> UnitRecord:
        """Reads the record of a finished unit; raises `InputError` if it is damaged."""
        path = self.path(_record(name))
        return _parse_record(path, files.read_bytes(path))

    def read_records(self, names: Iterable[str]) -> Iterator[UnitRecord]:
        """Reads the records of units in the given order; see `read_record`."""
        paths = [self.path(_record(name)) for name in names]
        return map(_parse_record, paths, files.read_each(paths))

    def unit_files(self) -> list[str]:
        """Returns the files of all finished units, in order, relative to the output."""
        records = self.read_records(sorted(self.finished_names()))
        return [name for record in records for name in sorted(record.files)]

    def finished_names(self) -> set[str]:
        """Returns the names of the finished units."""
        return {
            name.removesuffix(".json")
            for name in files.walk(self.path(RECORDS))
            if name.endswith(".json") and files.TEMPORARY not in name
        }

    def reconcile(self, finished: set[str], stale: set[str]) -> set[str]:
        """Removes files without a record, and units of which a file is gone or cut short.

        A unit killed before its record, or while it was forgotten, leaves such files. Names change
        with the archive, so no later unit may replace them.

        Args:
            finished: Names of the finished units.
            stale: Those whose archive has changed, which are not removed.

        Returns:
            The names of the units that were removed.
        """
        sizes: dict[str, int] = {}
        for folder in (TABLE, REJECTS, DUPLICATES, NEAR):
            sizes |= self._sizes(folder)
        lost, orphans = set(), {name for name in sizes if _OF_A_UNIT.search(name)}
        for record in self.read_records(sorted(finished)):
            orphans.difference_update(record.files)
            is_whole = all(sizes.get(file, -1) >= size for file, size in record.files.items())
            if not is_whole and record.name not in stale:
                lost.add(record.name)
        for name in lost:
            self.forget(name)
        files.for_each(files.remove, map(self.path, orphans))
        return lost

    def _sizes(self, folder: str) -> dict[str, int]:
        """Returns the sizes in bytes of the files under a folder of the output, by name."""
        root = self.path(folder)
        if files.is_remote(root):
            found = ((name, facts.size) for name, facts in files.entries(root))
        else:
            found = (
                (name, files.stat(posixpath.join(root, name)).size) for name in files.walk(root)
            )
        return {posixpath.join(folder, name): size for name, size in found}

    def write_error(self, name: str, message: str) -> None:
        """Writes why a unit's archive is unusable; the job reads it and fails."""
        self.write(_error(name), message.encode())

    def read_error(self, name: str) -> str:
        """Reads why a unit failed."""
        try:
            message = self.read(_error(name)).decode()
        except FileNotFoundError:
            return f"{self.output}: the unit {name} was not done; run the job again"
        self.remove(_error(name))
        return message

    def forget(self, name: str) -> None:
        """Removes a unit, the record first, so that a crash leaves no record without its rows."""
        record = self.read_record(name)
        self.remove(_record(name))
        for file in record.files:
            self.remove(file)

    def clear(self) -> None:
        """Removes a job's results, the records first."""
        results = (RECORDS, HASHES, NEAR, NEAR_DUPLICATES, MANIFEST, TABLE, REJECTS, DUPLICATES)
        made_of_them = (REVIEW, REVIEWED, ADJUSTED, *DRIFT_FILES, REPORT)
        for name in (*results, *made_of_them, IDENTITY):
            self.remove(name)

    def remove_unfinished(self) -> None:
        """Removes the temporary files that a killed job left behind."""
        if not files.is_remote(self.output):
            for left in Path(self.output).rglob(f"{files.TEMPORARY}*"):
                left.unlink(missing_ok=True)

    def require_writable(self) -> None:
        """Creates the folder and checks that it is writable.

        Raises:
            OutputError: if it is not.
        """
        probe = f"{files.TEMPORARY}probe"
        try:
            self.write(probe, b"")
            self.remove(probe)
        except OutputError as error:
            reason = getattr(error.__cause__, "strerror", None) or error.reason
            raise OutputError(self.output, f"the output cannot be written: {reason}") from error
        except StorageError:
            raise
        except OSError as error:
            raise OutputError(
                self.output, f"the output cannot be written: {error.strerror or error}"
            ) from error


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for name in sorted(found.keys() | wanted.keys()):
        old, new = found.get(name), wanted.get(name)
        if old == new:
            continue
        if name == "digests" and isinstance(old, dict) and isinstance(new, dict):
            names.extend(part for part in sorted(new) if old.get(part) != new.get(part))
        else:
            names.append(name)
    return names


def _record(name: str) -> str:
    return posixpath.join(RECORDS, f"{name}.json")


def _error(name: str) -> str:
    return posixpath.join(RECORDS, f"{name}.error")


def shard_path(name: str, config: BulkConfig) -> str:
    """Returns the path of a unit's rows, relative to the output."""
    archive, part = name.split("/")
    folder = f"archive={archive}" if config.partition_by == "archive" else ""
    stem = f"part-{part}" if config.partition_by == "archive" else f"part-{archive}-{part}"
    return posixpath.join(TABLE, folder, stem + SUFFIXES[config.format])


def _parse_record(path: str, content: bytes) -> UnitRecord:
    try:
        return UnitRecord(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: damaged or cut short; remove it, and a new start makes its rows again"
        ) from error
