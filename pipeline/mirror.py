"""Copies a root from a bucket to a folder of this machine, and what changes in it back.

`working_root.py` calls it. The metadata store is the last object to be written, and only over the
version that was read. The bucket therefore holds, at any moment, the state after some step.
"""

import contextlib
import hashlib
import json
import os
import posixpath
import re
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from ml_metadata import proto

from pipeline.log_files import CRON_LOG, LOGS
from pipeline.runs.location import present_uri
from pipeline.runs.metadata_file import connected, is_empty
from pipeline.runs.repair import adapt_location
from pipeline.runs.run import ARTIFACTS, CONFIG_FILE
from pipeline.runs.store import METADATA_FILE
from trainer.errors import UserError
from trainer.storage import files
from trainer.storage.failures import ConflictError, MissingError
from trainer.storage.interface import FileFacts

_FOLDERS: Final = (ARTIFACTS, LOGS)
_FILES: Final = (CONFIG_FILE, "report.html", "label_errors.parquet", "label_errors.csv")
"""What is mirrored, besides the metadata store; what is pushed is written to its place at once."""
_STATE_FILE: Final = ".mirror.json"
_SNAPSHOT_FILE: Final = ".metadata.sqlite"
_OUTPUT: Final = re.compile(rf"({ARTIFACTS}/[^/]+/[^/]+/\d+)/")
"""An output of a step; the folders of trainings below `artifacts` have no numbers."""
_NO_OBJECT: Final = ""


class MirrorError(UserError, ValueError):
    """Reports that a root in a bucket cannot be used or written; the message tells why."""


@dataclass
class _State:
    """What was last equal here and in the bucket.

    Attributes:
        metadata: version of the object of the metadata store.
        digest: digest of the store here, at that time.
        files: size, time of the last modification in nanoseconds, and version of the object, by
            name.
    """

    metadata: str = ""
    digest: str = ""
    files: dict[str, tuple[int, int, str]] = field(default_factory=dict)


class Mirror:
    """Mirrors a root; the caller holds its lock, except for reading.

    Args:
        address: The root in the bucket.
        folder: The folder that has, or will have, the same files.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self._address = address
        self._folder = folder
        self._lock = threading.Lock()
        self._state = self._read_state()

    def fetch(self, *, for_writing: bool) -> int:
        """Makes the folder equal to the bucket, unless only the folder has changed since.

        The folder is then ahead, as after a run that was killed, and is what the next run resumes.

        Args:
            for_writing: Whether the caller holds the root's lock. What a killed run of another
                machine left in the bucket is then removed.

        Returns:
            The number of files that were downloaded.

        Raises:
            MirrorError: The bucket holds outputs without a metadata store.
            StorageError: The bucket cannot be read.
        """
        # In this order: the outputs that a version of the store knows are there before it.
        facts = self._find(METADATA_FILE)
        found = self._list()
        downloaded = 0
        if facts is None:
            self._begin(found)
        elif facts.version == self._state.metadata and not (
            facts.size and is_empty(self._folder / METADATA_FILE)
        ):
            known = self._state.files
            self._state.files = {
                name: entry
                for name, entry in known.items()
                if name in found and found[name].version == entry[2]
            }
            if for_writing:
                self._remove(name for name in found if _OUTPUT.match(name) and name not in known)
        else:
            downloaded = self._replace(found, facts, for_writing=for_writing)
        self._write_state()
        return downloaded

    def publish(self, *, whole: bool = False) -> None:
        """Uploads what has changed: the outputs of finished steps, then the metadata store.

        It may be called from several threads.

        Args:
            whole: Whether no step is at work, so that everything else is uploaded, too, and objects
                without a file here are removed.

        Raises:
            MirrorError: Another run has written the root.
            StorageError: The bucket cannot be written.
        """
        with self._lock:
            if is_empty(self._folder / METADATA_FILE):
                return
            snapshot = self._take_snapshot()
            digest = hashlib.sha256(snapshot).hexdigest()
            names = self._local_names()
            gone = self._state.files.keys() - names if whole else set()
            if not whole:
                finished = self._recorded(self._folder / _SNAPSHOT_FILE, live=True)
                names = {name for name in names if _output(name) in finished}
            changed = [name for name in names if self._known(name) != self._signature(name)]
            if changed or gone or digest != self._state.digest:
                self._require_own()
                entries = files.in_parallel(self._upload, sorted(changed))
                self._state.files.update(zip(sorted(changed), entries, strict=True))
            if digest != self._state.digest:
                self._state.metadata = self._commit(snapshot)
                self._state.digest = digest
            self._remove(gone)
            for name in gone:
                del self._state.files[name]
            self._write_state()

    def _begin(self, found: dict[str, FileFacts]) -> None:
        """Empties the folder, because nothing is recorded in the bucket."""
        if any(_OUTPUT.match(name) for name in found):
            raise MirrorError(
                f"{self._address}: holds outputs but no {METADATA_FILE}; restore it, or give a new"
                " address with --root"
            )
        self._clear(keep=set())
        self._remove_store()
        self._state = _State()

    def _replace(
        self, found: dict[str, FileFacts], metadata: FileFacts, *, for_writing: bool
    ) -> int:
        """Makes the folder equal to the bucket; returns how many files were downloaded."""
        store = self._folder / METADATA_FILE
        recorded: set[str] = set()
        self._remove_store()
        if metadata.size:
            files.copy(self._at(METADATA_FILE), str(store))
            recorded = self._recorded(store)
        orphans = {name for name in found if (output := _output(name)) and output not in recorded}
        wanted = found.keys() - orphans
        kept = {
            name: entry
            for name, entry in self._state.files.items()
            if name in wanted
            and entry[2] == found[name].version
            and entry[:2] == self._signature(name)
        }
        self._clear(keep=set(kept))
        missing = sorted(wanted - kept.keys())
        files.for_each(lambda name: files.copy(self._at(name), str(self._folder / name)), missing)
        fetched = {name: (*self._signature(name), found[name].version) for name in missing}
        if for_writing:
            self._remove(orphans)
        # Some artifacts have properties only, and stores have no empty folders.
        for output in self._recorded(store, live=True) if recorded else ():
            (self._folder / output).mkdir(parents=True, exist_ok=True)
        self._state = _State(metadata.version, "", {**kept, **fetched})
        if recorded:
            adapt_location(self._folder)
            self._state.digest = hashlib.sha256(self._take_snapshot()).hexdigest()
        return len(missing)

    def _commit(self, snapshot: bytes) -> str:
        try:
            return files.write_if(self._at(METADATA_FILE), snapshot, self._state.metadata)
        except ConflictError as error:
            # It is ours if only the response to an earlier attempt was lost.
            if files.read_bytes(self._at(METADATA_FILE)) == snapshot:
                return files.stat(self._at(METADATA_FILE)).version
            raise self._lost() from error

    def _require_own(self) -> None:
        """Checks, before outputs are uploaded, that no other run has written the root."""
        facts = self._find(METADATA_FILE)
        if facts is None and not self._state.metadata:
            # If this first run is killed now, its outputs are known as those of no run.
            self._state.metadata = files.write_if(self._at(METADATA_FILE), b"", _NO_OBJECT)
            self._write_state()
        elif facts is None or facts.version != self._state.metadata:
            raise self._lost()

    def _lost(self) -> MirrorError:
        return MirrorError(
            f"{self._address}: another run has written there while this one stood still; start"
            " again, and what that run has finished is used"
        )

    def _take_snapshot(self) -> bytes:
        """Copies the metadata store, between two transactions, to a file; returns its content."""
        path = self._folder / _SNAPSHOT_FILE
        path.unlink(missing_ok=True)
        with (
            connected(self._folder / METADATA_FILE) as source,
            contextlib.closing(sqlite3.connect(path)) as target,
        ):
            source.backup(target)
        return path.read_bytes()

    def _recorded(self, store: Path, *, live: bool = False) -> set[str]:
        """Returns the outputs that a metadata store knows, or has as live, relative to the root."""
        with connected(store) as connection:
            rows = connection.execute("SELECT uri, state FROM Artifact").fetchall()
        places = [
            Path(present_uri(uri, self._folder))
            for uri, state in rows
            if uri and (not live or state == proto.Artifact.LIVE)
        ]
        return {
            output
            for place in places
            if place.is_relative_to(self._folder)
            and (output := _output(f"{place.relative_to(self._folder).as_posix()}/"))
        }

    def _list(self) -> dict[str, FileFacts]:
        """Lists what the bucket holds of the root, without the metadata store."""
        found = {
            f"{folder}/{name}": facts
            for folder in _FOLDERS
            for name, facts in files.entries(self._at(folder))
            if _is_mirrored(name)
        }
        for name in _FILES:
            if (facts := self._find(name)) is not None:
                found[name] = facts
        return found

    def _find(self, name: str) -> FileFacts | None:
        try:
            return files.stat(self._at(name))
        except MissingError:
            return None

    def _local_names(self) -> set[str]:
        """Lists the files here that are mirrored."""
        below = {
            f"{folder}/{name}"
            for folder in _FOLDERS
            for name in files.walk(str(self._folder / folder))
            if _is_mirrored(name)
        }
        return below | {name for name in _FILES if (self._folder / name).is_file()}

    def _remove_store(self) -> None:
        for suffix in ("", "-journal", "-wal"):
            (self._folder / f"{METADATA_FILE}{suffix}").unlink(missing_ok=True)

    def _clear(self, *, keep: set[str]) -> None:
        """Removes mirrored files, and folders that are empty then."""
        for name in self._local_names() - keep:
            (self._folder / name).unlink()
        for folder, _, _ in os.walk(self._folder / ARTIFACTS, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def _upload(self, name: str) -> tuple[int, int, str]:
        # Before the upload: what is written meanwhile is uploaded again.
        signature = self._signature(name)
        files.copy(str(self._folder / name), self._at(name))
        return (*signature, files.stat(self._at(name)).version)

    def _remove(self, names: Iterable[str]) -> None:
        files.for_each(files.remove, [self._at(name) for name in names])

    def _known(self, name: str) -> tuple[int, int]:
        size, modified, _ = self._state.files.get(name, (-1, -1, ""))
        return size, modified

    def _signature(self, name: str) -> tuple[int, int]:
        try:
            status = (self._folder / name).stat()
        except FileNotFoundError:
            return -1, 0
        return status.st_size, status.st_mtime_ns

    def _at(self, name: str) -> str:
        return posixpath.join(self._address, name)

    def _read_state(self) -> _State:
        try:
            values = json.loads((self._folder / _STATE_FILE).read_bytes())
            entries = {name: tuple(entry) for name, entry in values.pop("files").items()}
            return _State(**values, files=entries)
        except (OSError, ValueError, TypeError, KeyError):
            # Everything is then downloaded.
            return _State()

    def _write_state(self) -> None:
        content = json.dumps(asdict(self._state)).encode()
        files.write_bytes(str(self._folder / _STATE_FILE), content)


def _is_mirrored(name: str) -> bool:
    """Returns whether a file is no scratch file; names of those of TFX begin with a dot.

    Cron's log is open while a run is at work, so that nothing may replace it.
    """
    return name != CRON_LOG and not any(part.startswith(".") for part in name.split("/"))


def _output(name: str) -> str:
    """Returns the output of a step that a file belongs to; empty if it belongs to none."""
    found = _OUTPUT.match(name)
    return found[1] if found else ""
