"""Writes and deletes objects in Cloud Storage, atomically and with one-line errors.

The bulk job's `storage.py` calls it; reading is in `cloud_storage.py`.
"""

import contextlib
from typing import IO

from google.api_core import exceptions

from components.image_sources.cloud_storage import blob_of, retried
from components.image_sources.config import StorageConfig
from trainer.errors import InputError


def exists(path: str, storage: StorageConfig) -> bool:
    """Returns whether an object of exactly that name exists."""
    blob = blob_of(path, storage)
    return bool(
        retried(path, storage, lambda: blob.exists(timeout=storage.timeout_secs, retry=None))
    )


def write_object(
    path: str, source: IO[bytes], storage: StorageConfig, generation: int | None = None
) -> int:
    """Writes an object atomically.

    Args:
        path: The object's address.
        source: The content, read from its beginning and again for each retry.
        storage: How to reach the object.
        generation: Overwrites only this generation; 0 writes only if no object exists.

    Returns:
        The object's new generation.

    Raises:
        FileExistsError: if the object has another generation than the one given.
        InputError: if it cannot be written.
    """
    blob = blob_of(path, storage)

    def upload() -> int:
        blob.upload_from_file(
            source,
            rewind=True,
            checksum="crc32c",
            if_generation_match=generation,
            timeout=storage.timeout_secs,
            retry=None,
        )
        return int(blob.generation)

    try:
        return retried(path, storage, upload, "write", "Storage Object User")
    except InputError as error:
        if isinstance(error.__cause__, exceptions.PreconditionFailed):
            raise FileExistsError(path) from error
        raise


def delete(path: str, storage: StorageConfig) -> None:
    """Deletes an object; does nothing if there is none."""
    blob = blob_of(path, storage)

    def request() -> None:
        with contextlib.suppress(exceptions.NotFound):
            blob.delete(timeout=storage.timeout_secs, retry=None)

    retried(path, storage, request, "delete", "Storage Object User")
