"""Extracts the message for the user from an error that has passed through several layers."""

import errno
import os
import pkgutil
import re

from trainer.errors import UserError
from trainer.storage.failures import DISK_FULL

# Beam workers in other processes send an error as the text of its traceback. A list of names
# would have to be maintained by hand, or would have to import every module that defines an error,
# including TFX. A traceback contains the full class name, so the class is looked up by that name;
# the module that raised it is usually imported already.
_IN_TEXT = re.compile(
    r"^(?P<name>(?:components|pipeline|serving|trainer)\.[\w.]+Error): (?P<message>.+)$",
    re.MULTILINE,
)
_BEAM_SUFFIX = re.compile(r"\s*\[while running .*$", re.DOTALL)
_STORE_FULL = "database or disk is full"
"""SQLite's words, which ML Metadata repeats after a page of what it could not write."""
_TENSORFLOW_FULL = re.compile(rf"(?P<file>\S+); (?P<reason>{os.strerror(errno.ENOSPC)})")
"""In TensorFlow's errors, which are none of the operating system's."""
_AFTER_HEADING = 5
"""Lines that are shown of a message that begins with a heading."""
_MAKE_ROOM = "; make room, and start again"


def cause(error: BaseException) -> str:
    """Summarises an error in a line or two.

    Args:
        error: The exception, possibly one of Beam or TFX that wraps the real cause.

    Returns:
        The message of the outermost `UserError`, if there is one; otherwise that of the operating
        system, or what TensorFlow or SQLite says of a full disk; otherwise the type and first line
        of the innermost error.
    """
    chain = _chain(error)
    for link in chain:
        if isinstance(link, UserError):
            return _BEAM_SUFFIX.sub("", str(link))
    for link in chain:
        for found in _IN_TEXT.finditer(str(link)):
            if _names_user_error(found["name"]):
                return _BEAM_SUFFIX.sub("", found["message"])
    for link in reversed(chain):
        if isinstance(link, OSError) and link.strerror:
            place = f"{link.filename}: " if link.filename else ""
            is_full = link.errno in DISK_FULL
            return f"{place}{link.strerror}{_MAKE_ROOM if is_full else ''}"
    if any(_STORE_FULL in str(link) for link in chain):
        return f"the metadata store below the root can't be written: no space left{_MAKE_ROOM}"
    for link in reversed(chain):
        lines = [line for line in _BEAM_SUFFIX.sub("", str(link)).splitlines() if line.strip()]
        if lines:
            if full := _TENSORFLOW_FULL.search(lines[0]):
                return f"{full['file']}: {full['reason']}{_MAKE_ROOM}"
            # A heading says nothing without what follows, as of Beam's checks of its options.
            shown = lines[:_AFTER_HEADING] if lines[0].rstrip().endswith(":") else lines[:1]
            return f"{type(link).__name__}: {' '.join(line.strip() for line in shown)}"
    return type(error).__name__


def _names_user_error(name: str) -> bool:
    """Tells whether a name such as `pipeline.config.ConfigError` refers to a `UserError`."""
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(found, type) and issubclass(found, UserError)


def _chain(error: BaseException) -> list[BaseException]:
    """Lists an error and its causes, outermost first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
