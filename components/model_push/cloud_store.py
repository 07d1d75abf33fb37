"""Stores versions in a Cloud Storage bucket, which has atomic objects but no rename.

A version is uploaded under a prefix that TF Serving ignores, then copied inside the bucket (no
data is transferred) with `saved_model.pb` last. It counts as complete once that object exists.
While the copies run, a reader sees a number without `saved_model.pb`; docs/serving.md describes
the consequences.
"""

import contextlib
import datetime
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import requests
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud import storage as gcs
from google.cloud.storage.retry import DEFAULT_RETRY

from components.model_push.record import PushRecord, parse_record
from components.model_push.versions import (
    LATEST,
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

_CLAIM: Final = ".claim"
_STALE_SECS: Final = 3600
"""Age of its newest object after which an unfinished push is considered dead."""

_THREADS: Final = 8
_NO_OBJECT: Final = 0
"""Generation to match so that a request fails if the object exists."""


class CloudStore(VersionStore):
    """Stores versions below a `gs://` prefix."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        bucket, _, prefix = self.address.removeprefix("gs://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        with self._explained():
            self._client = gcs.Client()
            self._bucket = self._client.bucket(bucket)

    def versions(self) -> list[Version]:
        """See the base class."""
        with self._explained():
            folders = self._folders()
            numbers = version_numbers(folders)
            return [self._version(number, folders[str(number)]) for number in numbers]

    def latest(self) -> int | None:
        """See the base class."""
        with self._explained():
            return self._pointer()[0]

    def publish(self, model: Path, record: PushRecord) -> Version:
        """See the base class."""
        require_model(model)

        def upload(staging: str) -> list[str]:
            files = sorted(
                path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()
            )
            _side_by_side(
                lambda name: self._bucket.blob(staging + name).upload_from_filename(
                    str(model / name), retry=DEFAULT_RETRY
                ),
                files,
            )
            return files

        return self._publish(record, upload)

    def republish(self, number: int, record: PushRecord) -> Version:
        """See the base class."""
        source = f"{self._prefix}{self.find(number).number}/"

        def copy(staging: str) -> list[str]:
            files = [blob.name.removeprefix(source) for blob in self._list(source)]
            _side_by_side(lambda name: self._copy(source + name, staging + name), files)
            return files

        return self._publish(record, copy)

    def remove(self, numbers: Iterable[int]) -> None:
        """See the base class."""
        for number in numbers:
            self.find(number)
            with self._explained():
                self._delete(self._list(f"{self._prefix}{number}/"))

    def _publish(self, record: PushRecord, fill: Callable[[str], list[str]]) -> Version:
        with self._explained():
            # Claiming before the dead pushes are removed keeps their numbers from being reused: a
            # server that saw such a number has given up on it.
            number = self._claim()
            self._remove_dead(number)
            staging, final = (f"{self._prefix}{TEMPORARY}{number}/", f"{self._prefix}{number}/")
            files = fill(staging)
            served = max((v.number for v in self.complete()), default=None)
            self._bucket.blob(staging + RECORD_FILE).upload_from_string(
                stamped(record, number, served).to_json(), retry=DEFAULT_RETRY
            )
            rest = {*files, RECORD_FILE} - {MODEL_FILE}
            _side_by_side(lambda name: self._copy(staging + name, final + name), sorted(rest))
            self._copy(staging + MODEL_FILE, final + MODEL_FILE)
            self._point_at(number)
            self._delete(self._list(staging))
            return self.find(number)

    def _claim(self) -> int:
        """Reserves a version number, which concurrent pushes cannot get."""
        while True:
            numbers = version_numbers(name.removeprefix(TEMPORARY) for name in self._folders())
            number = next_number([*numbers, self._pointer()[0] or 0])
            claim = self._bucket.blob(f"{self._prefix}{TEMPORARY}{number}/{_CLAIM}")
            try:
                claim.upload_from_string(b"", if_generation_match=_NO_OBJECT)
            except exceptions.PreconditionFailed:
                continue
            # Another push may have finished with this number between the listing and the claim.
            if not self._list(f"{self._prefix}{number}/"):
                return number
            claim.delete()

    def _pointer(self) -> tuple[int | None, int]:
        """Reads the pointer and its generation, which is 0 if there is none."""
        blob = self._bucket.get_blob(self._prefix + LATEST)
        if blob is None:
            return None, _NO_OBJECT
        text = blob.download_as_bytes()
        try:
            return int(text), blob.generation
        except ValueError as error:
            raise InputError(
                f"{self.address}/{LATEST}: holds no version's number; delete it, the next push"
                " writes it again"
            ) from error

    def _point_at(self, number: int) -> None:
        """Moves the pointer forward, so that of concurrent pushes the highest number remains."""
        while True:
            current, generation = self._pointer()
            if current is not None and current >= number:
                return
            with contextlib.suppress(exceptions.PreconditionFailed):
                self._bucket.blob(self._prefix + LATEST).upload_from_string(
                    f"{number}\n", if_generation_match=generation
                )
                return

    def _folders(self) -> dict[str, dict[str, int]]:
        """Lists file sizes by folder and file name, for the folders directly below the prefix."""
        folders: dict[str, dict[str, int]] = defaultdict(dict)
        for blob in self._list(self._prefix):
            folder, slash, file = blob.name.removeprefix(self._prefix).partition("/")
            if slash:
                folders[folder][file] = blob.size or 0
        return folders

    def _version(self, number: int, files: dict[str, int]) -> Version:
        path = f"{self.address}/{number}"
        record = PushRecord()
        if RECORD_FILE in files:
            blob = self._bucket.blob(f"{self._prefix}{number}/{RECORD_FILE}")
            record = parse_record(blob.download_as_bytes(), f"{path}/{RECORD_FILE}")
        return Version(number, path, MODEL_FILE in files, sum(files.values()), record)

    def _remove_dead(self, ours: int) -> None:
        """Removes leftovers of dead pushes, and points to the newest version that they finished."""
        now = datetime.datetime.now(datetime.UTC)
        blobs: dict[str, list[Any]] = defaultdict(list)
        for blob in self._list(self._prefix):
            folder, slash, _ = blob.name.removeprefix(self._prefix).partition("/")
            if slash:
                blobs[folder].append(blob)
        complete = []
        for folder, found in blobs.items():
            if folder.isdecimal() and any(b.name.endswith(f"/{MODEL_FILE}") for b in found):
                complete.append(int(folder))
            elif folder == f"{TEMPORARY}{ours}":
                continue
            elif folder.isdecimal() or folder.startswith(TEMPORARY):
                youngest = max(blob.updated for blob in found)
                if (now - youngest).total_seconds() > _STALE_SECS:
                    self._delete(found)
        if complete:
            self._point_at(max(complete))

    def _list(self, prefix: str) -> list[Any]:
        return list(self._client.list_blobs(self._bucket, prefix=prefix))

    def _copy(self, source: str, target: str) -> None:
        blob = self._bucket.blob(target)
        token = None
        while True:
            token, _, _ = blob.rewrite(self._bucket.blob(source), token=token, retry=DEFAULT_RETRY)
            if token is None:
                return

    def _delete(self, blobs: list[Any]) -> None:
        # Readers take a version for complete while it has saved_model.pb, so that goes first.
        first = [blob for blob in blobs if blob.name.endswith(f"/{MODEL_FILE}")]
        for part in (first, [blob for blob in blobs if blob not in first]):
            _side_by_side(_delete_one, part)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except exceptions.NotFound as error:
            raise InputError(f"{self.address}: no such bucket; check push.directory") from error
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise InputError(
                f"{self.address}: no permission; grant Storage Object Admin to the account"
            ) from error
        except auth_exceptions.GoogleAuthError as error:
            raise InputError(
                "gs://: no Google credentials; run `gcloud auth application-default login`"
            ) from error
        except (exceptions.GoogleAPIError, requests.exceptions.RequestException) as error:
            line = str(error).strip().partition("\n")[0][:200]
            raise InputError(f"{self.address}: Cloud Storage fails: {line}") from error


def _delete_one(blob: Any) -> None:
    # A concurrent push may already have deleted the object.
    with contextlib.suppress(exceptions.NotFound):
        blob.delete(retry=DEFAULT_RETRY)


def _side_by_side(function: Callable[[Any], object], items: Iterable[Any]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(function, items))
