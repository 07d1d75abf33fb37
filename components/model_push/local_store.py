"""Stores versions in a folder of this machine or of a shared file system.

A version is assembled under a name that TF Serving ignores, synced to disk, and renamed. One lock
per folder (`components/locks.py`) serialises pushes: anything unfinished that a push finds while
it holds the lock was left by a dead push and is removed.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from components import locks
from components.model_push.readers import group_id, readers_note, share, share_folder
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
from trainer.storage.failures import OutputError, writing_explained

_LOCK: Final = ".lock"


class LocalStore(VersionStore):
    """Stores versions in a folder.

    Args:
        address: The folder.
        group: The group that can read new versions, besides those who can read the folder.
    """

    def __init__(self, address: str, group: str = "") -> None:
        super().__init__(address)
        self._folder = Path(address)
        self._group = group

    def versions(self) -> list[Version]:
        """See the base class."""
        found = []
        for number in self._numbers():
            # A version may be pruned during the listing.
            with contextlib.suppress(FileNotFoundError):
                found.append(self._version(number))
        return found

    def latest(self) -> int | None:
        """See the base class."""
        try:
            return int((self._folder / LATEST).read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(
                f"{self._folder / LATEST}: holds no version's number; delete it, the next push"
                " writes it again"
            ) from error

    def publish(self, model: Path, record: PushRecord) -> Version:
        """See the base class."""
        require_model(model)
        return self._publish(record, lambda staging: shutil.copytree(
            model, staging, copy_function=_copy))  # fmt: skip

    def republish(self, number: int, record: PushRecord) -> Version:
        """See the base class."""

        def link(staging: Path) -> None:
            # Hard links keep the files if the old version is pruned later.
            source = Path(self.find(number).path)
            shutil.copytree(source, staging, copy_function=_link_or_copy)

        return self._publish(record, link)

    def remove(self, numbers: Iterable[int]) -> None:
        """See the base class."""
        with self.exclusive():
            for number in numbers:
                self.find_removable(number)
                (self._folder / str(number)).rename(self._folder / f"{TEMPORARY}removed-{number}")
            self._remove_unfinished()

    def write(self, name: str, content: bytes) -> None:
        """See the base class."""
        path = self._folder / name
        _write_whole(path, content)
        share(self._folder / Path(name).parts[0], self._folder, self._group)
        _sync(path.parent)
        _sync(self._folder)

    def readers_note(self, version: Version) -> str:
        """See the base class."""
        return readers_note(Path(version.path), self._group)

    def _publish(self, record: PushRecord, fill: Callable[[Path], object]) -> Version:
        if self._group:
            # Before anything is copied.
            group_id(self._group)
        with self.exclusive():
            numbers = self._numbers()
            number = next_number([*numbers, self.latest() or 0])
            # It also points to the version that a killed push published.
            self._remove_unfinished()
            if found := self.published(record):
                return found
            served = max((n for n in numbers if self._version(n).complete), default=None)
            staging = self._folder / f"{TEMPORARY}{number}"
            try:
                with writing_explained(str(self._folder)):
                    fill(staging)
                    _write_whole(staging / RECORD_FILE, stamped(record, number, served).to_json())
                    share(staging, self._folder, self._group)
                    _sync_tree(staging)
                    staging.rename(self._folder / str(number))
            except (OSError, OutputError):
                shutil.rmtree(staging, ignore_errors=True)
                raise
            _sync(self._folder)
            self._point_at(number)
            return self._version(number)

    def _numbers(self) -> list[int]:
        try:
            entries = list(os.scandir(self._folder))
        except FileNotFoundError:
            return []
        return version_numbers(entry.name for entry in entries if entry.is_dir())

    def _version(self, number: int) -> Version:
        folder = self._folder / str(number)
        file = folder / RECORD_FILE
        record = parse_record(file.read_bytes(), str(file)) if file.is_file() else PushRecord()
        return Version(
            number=number,
            path=str(folder),
            complete=(folder / MODEL_FILE).is_file(),
            size=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            record=record,
        )

    def _point_at(self, number: int) -> None:
        self.write(LATEST, f"{number}\n".encode())

    def _remove_unfinished(self) -> None:
        """Removes leftovers of dead pushes, and points to the newest version that they finished."""
        for left in self._folder.glob(f"{TEMPORARY}*"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        complete = [version.number for version in self.complete()]
        if complete and self.latest() != max(complete):
            self._point_at(max(complete))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """See the base class."""
        with contextlib.ExitStack() as stack:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                if self._group:
                    share_folder(self._folder, self._group)
                stack.enter_context(
                    locks.hold(
                        str(self._folder / _LOCK),
                        "a push",
                        refusal=lambda owner: InputError(f"{self._folder} is in use: {owner}"),
                        timeout_secs=-1,
                    )
                )
            except OSError as error:
                raise InputError(
                    f"{self._folder}: {error.strerror}; give a folder that you may write"
                    " (push.directory)"
                ) from error
            yield


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Some file systems do not support hard links.
        _copy(source, target)


def _copy(source: str, target: str) -> None:
    # copytree goes on after an OSError, and lists all of them in the end.
    with writing_explained(target):
        shutil.copyfile(source, target)


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a temporary file and renames it, which is atomic and leaves hard links unchanged."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
