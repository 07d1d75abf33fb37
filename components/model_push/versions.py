"""What a folder of pushed versions is, wherever it lies; `local_store` and `cloud_store` are two.

pushed/
1795371557/          a version, whole: saved_model.pb, variables/, assets/, assets.extra/
1795379012/
latest               the served version's number, for readers other than TF Serving
.tmp-1795379013/     a push under way, or what a killed one left; no integer, so ignored
"""

import abc
import posixpath
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from components.bulk_inference import storage
from components.image_sources.errors import InputError
from components.model_push.record import PushRecord
from serving import names

MODEL_FILE: Final = "saved_model.pb"
RECORD_FILE: Final = f"{names.EXTRA_ASSETS}/{names.PUSH_RECORD}"
LATEST: Final = "latest"
TEMPORARY: Final = ".tmp-"
"""How names start that TF Serving must not take for versions."""


@dataclass(frozen=True)
class Version:
    """One version in a store.

    Attributes:
        number: What TF Serving calls it.
        path: Its folder, or address.
        complete: It has its `saved_model.pb`, which comes last.
        size: Bytes.
        record: What the push wrote; a bare one where something else made the version.
    """

    number: int
    path: str
    complete: bool
    size: int
    record: PushRecord

    @property
    def origin(self) -> int:
        """The version that first held this model."""
        return self.record.copy_of or self.number


class VersionStore(abc.ABC):
    """A folder of versions.

    The served version is the highest complete one: that is TF Serving's default policy, and what
    the bulk job takes. `latest` says the same and never names a version that is not whole.

    Args:
        address: Folder or `gs://bucket/prefix`.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    @abc.abstractmethod
    def versions(self) -> list[Version]:
        """Lists the versions, oldest first, incomplete ones too."""

    @abc.abstractmethod
    def latest(self) -> int | None:
        """Reads the pointer; None before the first push."""

    @abc.abstractmethod
    def publish(self, model: Path, record: PushRecord) -> Version:
        """Makes a SavedModel the newest version; whole or not at all.

        Args:
            model: Folder of the SavedModel.
            record: Its version and what it replaces are filled in.

        Raises:
            InputError: The folder holds no SavedModel, or the store can't be written.
        """

    @abc.abstractmethod
    def republish(self, number: int, record: PushRecord) -> Version:
        """Makes the files of an old version the newest version; else as `publish`."""

    @abc.abstractmethod
    def remove(self, numbers: Iterable[int]) -> None:
        """Removes versions; each vanishes at once for whoever looks."""

    def complete(self) -> list[Version]:
        """Lists the versions that can be served, oldest first."""
        return [version for version in self.versions() if version.complete]

    def find(self, number: int) -> Version:
        """Returns a complete version.

        Raises:
            InputError: There is none of that number.
        """
        found = self.complete()
        for version in found:
            if version.number == number:
                return version
        there = ", ".join(str(version.number) for version in found) or "no version"
        raise InputError(f"{self.address}: there is no version {number}; there is {there}")


def version_numbers(names: Iterable[str]) -> list[int]:
    """Returns the versions among the names in a folder, oldest first: TF Serving's integers."""
    # Not `07`: a number has to give its folder's name again.
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def newest_folders(address: str) -> Iterator[str]:
    """Yields the folders of the versions that can be served, newest first.

    Reads names alone, so it also finds versions that something else than a push wrote.

    Args:
        address: Folder or `gs://bucket/prefix`; nothing is found if it does not exist.
    """
    for number in reversed(version_numbers(storage.list_names(address))):
        folder = posixpath.join(address, str(number))
        if storage.exists(posixpath.join(folder, MODEL_FILE)):
            yield folder


def next_number(taken: Sequence[int]) -> int:
    """Gives a version number: the time in seconds, or one above the highest ever given.

    Args:
        taken: Numbers in use, and that of the pointer, which outlives its version.
    """
    return max(int(time.time()), max(taken, default=0) + 1)


def stamped(record: PushRecord, number: int, served: int | None) -> PushRecord:
    """Fills in what only the store knows."""
    return replace(record, version=number, replaced=served)


def require_model(model: Path) -> None:
    """Checks that a folder can be pushed.

    Raises:
        InputError: It holds no SavedModel.
    """
    if not (model / MODEL_FILE).is_file():
        raise InputError(f"{model}: no {MODEL_FILE} there, so there is nothing to push")
