"""Stores versions in an object store, which has atomic objects but no rename.

A version is uploaded under a prefix that TF Serving ignores, then copied inside the store (no
data is transferred) with `saved_model.pb` last. It counts as complete once that object exists.
While the copies run, a reader sees a number without `saved_model.pb`; docs/serving.md describes
the consequences.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from components.model_push.record import PushRecord, parse_record
from components.model_push.versions import (
    MODEL_FILE,
    RECORD_FILE,
    TEMPORARY,
    Version,
    VersionStore,
    next_number,
    require_model,
    stamped,
    version_numbers,
)
from trainer.errors import InputError
from trainer.model_address import LATEST
from trainer.storage import files
from trainer.storage.failures import ConflictError, MissingError
from trainer.storage.interface import FileFacts

_CLAIM: Final = ".claim"
_STALE_SECS: Final = 3600
"""Age of its newest object after which an unfinished push is considered dead."""

_NO_OBJECT: Final = ""
"""Version to match so that a write fails if the object exists."""


class CloudStore(VersionStore):
    """Stores versions below a prefix, such as `gs://bucket/prefix`."""

    def versions(self) -> list[Version]:
        """See the base class."""
        folders = self._folders()
        numbers = version_numbers(folders)
        return [self._version(number, folders[str(number)]) for number in numbers]

    def latest(self) -> int | None:
        """See the base class."""
        return self._pointer()[0]

    def publish(self, model: Path, record: PushRecord) -> Version:
        """See the base class."""
        require_model(model)
        return self._publish(str(model), record)

    def republish(self, number: int, record: PushRecord) -> Version:
        """See the base class."""
        return self._publish(self.find(number).path, record)

    def remove(self, numbers: Iterable[int]) -> None:
        """See the base class."""
        for number in numbers:
            self._delete(self.find_removable(number).path)

    def write(self, name: str, content: bytes) -> None:
        """See the base class."""
        files.write_bytes(f"{self.address}/{name}", content)

    def _publish(self, source: str, record: PushRecord) -> Version:
        if found := self.published(record):
            # The push may have been killed before it did this.
            self._point_at(found.number)
            return found
        # Claiming before the dead pushes are removed keeps their numbers from being reused: a
        # server that saw such a number has given up on it.
        number = self._claim()
        self._remove_dead(number)
        staging, final = f"{self.address}/{TEMPORARY}{number}", f"{self.address}/{number}"
        files.copy_tree(source, staging)
        served = max((v.number for v in self.complete()), default=None)
        files.write_bytes(f"{staging}/{RECORD_FILE}", stamped(record, number, served).to_json())

        def complete(name: str) -> None:
            files.copy(f"{staging}/{name}", f"{final}/{name}")

        rest = {*files.walk(source), RECORD_FILE} - {MODEL_FILE}
        files.for_each(complete, sorted(rest))
        complete(MODEL_FILE)
        self._point_at(number)
        self._delete(staging)
        return self.find(number)

    def _claim(self) -> int:
        """Reserves a version number, which concurrent pushes cannot get."""
        while True:
            numbers = version_numbers(name.removeprefix(TEMPORARY) for name in self._folders())
            number = next_number([*numbers, self._pointer()[0] or 0])
            claim = f"{self.address}/{TEMPORARY}{number}/{_CLAIM}"
            try:
                files.write_if(claim, b"", _NO_OBJECT)
            except ConflictError:
                continue
            # Another push may have finished with this number between the listing and the claim.
            if not files.is_folder(f"{self.address}/{number}"):
                return number
            files.remove(claim)

    def _pointer(self) -> tuple[int | None, str]:
        """Reads the pointer and its version, which is empty if there is no pointer."""
        path = f"{self.address}/{LATEST}"
        try:
            version = files.stat(path).version
            return int(files.read_bytes(path)), version
        except MissingError:
            return None, _NO_OBJECT
        except InputError:
            raise
        except ValueError as error:
            raise InputError(
                f"{path}: holds no version's number; delete it, the next push writes it again"
            ) from error

    def _point_at(self, number: int) -> None:
        """Moves the pointer forward, so that of concurrent pushes the highest number remains."""
        while True:
            current, version = self._pointer()
            if current is not None and current >= number:
                return
            with contextlib.suppress(ConflictError):
                files.write_if(f"{self.address}/{LATEST}", f"{number}\n".encode(), version)
                return

    def _folders(self) -> dict[str, dict[str, FileFacts]]:
        """Lists files by folder and name, for the folders directly below the address."""
        folders: dict[str, dict[str, FileFacts]] = defaultdict(dict)
        for name, facts in files.entries(self.address):
            folder, slash, file = name.partition("/")
            if slash:
                folders[folder][file] = facts
        return folders

    def _version(self, number: int, found: dict[str, FileFacts]) -> Version:
        path = f"{self.address}/{number}"
        record = PushRecord()
        if RECORD_FILE in found:
            file = f"{path}/{RECORD_FILE}"
            record = parse_record(files.read_bytes(file), file)
        size = sum(facts.size for facts in found.values())
        return Version(number, path, MODEL_FILE in found, size, record)

    def _remove_dead(self, ours: int) -> None:
        """Removes leftovers of dead pushes, and points to the newest version that they finished."""
        complete = []
        for folder, found in self._folders().items():
            if folder.isdecimal() and MODEL_FILE in found:
                complete.append(int(folder))
            elif folder == f"{TEMPORARY}{ours}":
                continue
            elif folder.isdecimal() or folder.startswith(TEMPORARY):
                youngest = max(facts.modified for facts in found.values())
                if time.time() - youngest > _STALE_SECS:
                    self._delete(f"{self.address}/{folder}")
        if complete:
            self._point_at(max(complete))

    def _delete(self, folder: str) -> None:
        # Readers take a version for complete while it has saved_model.pb, so that goes first.
        files.remove(f"{folder}/{MODEL_FILE}")
        files.remove(folder)
