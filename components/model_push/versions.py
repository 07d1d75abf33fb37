"""Defines the layout of a folder of pushed versions, for `local_store` and `cloud_store`.

pushed/
1795371557/          a complete version: saved_model.pb, variables/, assets/, assets.extra/
1795379012/
latest               the served version's number, for readers other than TF Serving
aliases/champion     a name for a version, and who gave it
.tmp-1795379013/     a push in progress or killed; not an integer, so TF Serving ignores it
"""

import abc
import contextlib
import posixpath
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from components.model_push.aliases import Alias, read_aliases
from components.model_push.record import PushRecord, parse_record
from serving import names
from trainer.errors import InputError
from trainer.storage import files

MODEL_FILE: Final = "saved_model.pb"
RECORD_FILE: Final = f"{names.EXTRA_ASSETS}/{names.PUSH_RECORD}"
TEMPORARY: Final = ".tmp-"
"""Prefix of names that TF Serving must not take for versions."""


@dataclass(frozen=True)
class Version:
    """Describes one version in a store.

    Attributes:
        number: The number under which TF Serving knows it.
        path: Its folder, or its address.
        complete: Whether it has its `saved_model.pb`, which is written last.
        size: Size in bytes.
        record: The record of the push; empty if something else created the version.
    """

    number: int
    path: str
    complete: bool
    size: int
    record: PushRecord

    @property
    def origin(self) -> int:
        """Returns the version that first held this model."""
        return self.record.copy_of or self.number

    def is_same_model(self, other: "Version") -> bool:
        """Tells whether both versions hold one model, by a rollback or by a second push of it."""
        own, others = self.record.digests, other.record.digests
        return self.origin == other.origin or (any(own.values()) and own == others)


class VersionStore(abc.ABC):
    """Manages a folder of versions.

    The served version is the highest complete one, both by TF Serving's default policy and in the
    bulk job. `latest` names the same version and never an incomplete one.

    Args:
        address: A folder, or an address such as `gs://bucket/prefix`.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    @abc.abstractmethod
    def versions(self) -> list[Version]:
        """Lists the versions, oldest first, including incomplete ones."""

    @abc.abstractmethod
    def latest(self) -> int | None:
        """Reads the pointer; None before the first push."""

    @abc.abstractmethod
    def publish(self, model: Path, record: PushRecord) -> Version:
        """Publishes a SavedModel atomically as the newest version.

        If the newest version is of this very push, nothing is published: a scheduler starts a step
        again whose machine was lost after it had published.

        Args:
            model: Folder of the SavedModel.
            record: The record, in which `version` and `replaced` are filled in.

        Returns:
            The newest version.

        Raises:
            InputError: if the folder holds no SavedModel, or the store is not writable.
        """

    @abc.abstractmethod
    def republish(self, number: int, record: PushRecord) -> Version:
        """Publishes the files of an old version as the newest version, like `publish`."""

    @abc.abstractmethod
    def remove(self, numbers: Iterable[int]) -> None:
        """Removes versions, each atomically for readers.

        Raises:
            InputError: if a version is not there or has an alias.
        """

    @abc.abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Writes a small file beside the versions atomically, for all who can read these."""

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps pushes and prunes of other processes away, in stores that have locks."""
        yield

    def aliases(self) -> dict[str, Alias]:
        """Reads the aliases, by name, sorted."""
        return read_aliases(self.address)

    def readers_note(self, version: Version) -> str:
        """Tells in one line if no other account can read a version; empty if one can."""
        return ""

    def complete(self) -> list[Version]:
        """Lists the versions that can be served, oldest first."""
        return [version for version in self.versions() if version.complete]

    def published(self, record: PushRecord) -> Version | None:
        """Returns the newest version that can be served if it is of this very push."""
        newest = max(self.complete(), key=lambda version: version.number, default=None)
        return newest if newest and newest.record.is_same_push(record) else None

    def find(self, number: int) -> Version:
        """Returns a complete version.

        Raises:
            InputError: if no complete version has that number.
        """
        found = self.complete()
        for version in found:
            if version.number == number:
                return version
        there = ", ".join(str(version.number) for version in found) or "no version"
        raise InputError(f"{self.address}: there is no version {number}; there is {there}")

    def find_removable(self, number: int) -> Version:
        """Returns a complete version that no alias names.

        Raises:
            InputError: if there is none of that number, or it has an alias.
        """
        named = [name for name, alias in self.aliases().items() if alias.version == number]
        if named:
            raise InputError(
                f"{self.address}: version {number} is {', '.join(named)}, so it is not removed;"
                f" `vaeline models alias {self.address} {named[0]} --remove` first"
            )
        return self.find(number)


def version_numbers(names: Iterable[str]) -> list[int]:
    """Returns the names in a folder that are version numbers, as integers in ascending order."""
    # `07` is excluded, because a number must convert back to its folder's name.
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def newest_folders(address: str) -> Iterator[str]:
    """Yields the folders of the versions that can be served, newest first.

    It reads only names, so it also finds versions that were not written by a push.

    Args:
        address: A folder, or an address such as `gs://bucket/prefix`; a missing one yields nothing.
    """
    for number in reversed(version_numbers(files.list_names(address))):
        folder = posixpath.join(address, str(number))
        if files.exists(posixpath.join(folder, MODEL_FILE)):
            yield folder


def newest_record(address: str) -> PushRecord:
    """Reads the record of the version that is served, by names and one file.

    Args:
        address: As for `newest_folders`.

    Returns:
        The record; an empty one if there is no version, or something else wrote it.
    """
    for folder in newest_folders(address):
        path = posixpath.join(folder, RECORD_FILE)
        with contextlib.suppress(FileNotFoundError):
            return parse_record(files.read_bytes(path), path)
        break
    return PushRecord()


def next_number(taken: Sequence[int]) -> int:
    """Returns a new version number: the time in seconds, or one above the highest number taken.

    Args:
        taken: Numbers in use, and that of the pointer, which outlives its version.
    """
    return max(int(time.time()), max(taken, default=0) + 1)


def stamped(record: PushRecord, number: int, served: int | None) -> PushRecord:
    """Returns the record with the fields that only the store knows."""
    return replace(record, version=number, replaced=served)


def require_model(model: Path) -> None:
    """Checks that a folder can be pushed.

    Raises:
        InputError: if it holds no SavedModel.
    """
    if not (model / MODEL_FILE).is_file():
        raise InputError(f"{model}: no {MODEL_FILE} there, so there is nothing to push")
