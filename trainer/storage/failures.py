"""Defines the errors of files and objects, and translates those of the operating system.

Each is an `InputError` with a complete message. Those that callers handle are built-in errors too.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from trainer.errors import InputError

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, or of a quota that is used up."""
_REFUSALS: Final = (*DISK_FULL, errno.EROFS, errno.EACCES, errno.EPERM)


class StorageError(InputError):
    """Reports a file, folder or object that cannot be reached.

    Args:
        path: The file, folder or object.
        reason: What is wrong and how to fix it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets worker processes send the error to their parent."""
        return type(self), (self.path, self.reason)


class MissingError(StorageError, FileNotFoundError):
    """Reports a file, object or bucket that does not exist."""


class ConflictError(StorageError, FileExistsError):
    """Reports a conditional request that was refused, because the object has another version."""


class OutputError(StorageError):
    """Reports an output that cannot be written."""


def conflict(path: str, verb: str) -> ConflictError:
    """Returns the error for an object that has another version than a request names."""
    if verb == "read":
        return ConflictError(path, "has changed since it was opened; start again")
    return ConflictError(path, "another process has written it")


def unreadable(path: str, error: OSError) -> StorageError:
    """Returns the error for a path on disk that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return MissingError(path, "no such file or folder; check the path")
    if isinstance(error, PermissionError):
        return StorageError(path, "no permission to read it; check its owner and mode")
    return StorageError(path, f"cannot be read: {error.strerror or error}")


@contextmanager
def writing_explained(path: str) -> Iterator[None]:
    """Translates the operating system's refusals to write.

    Raises:
        OutputError: if the disk is full or is not writable.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        remedy = "make room" if error.errno in DISK_FULL else "check its owner, mode and mount"
        raise OutputError(
            path,
            f"cannot be written: {error.strerror}; {remedy} or name another output, and start"
            " again: what is finished stays",
        ) from error
