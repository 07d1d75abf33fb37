"""Extracts the message for the user from an error that has passed through several layers."""

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


def cause(error: BaseException) -> str:
    """Summarises an error in a line or two.

    Args:
        error: The exception, possibly one of Beam or TFX that wraps the real cause.

    Returns:
        The message of the outermost `UserError`, if there is one; otherwise that of the operating
        system; otherwise the type and first line of the innermost error.
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
            return f"{place}{link.strerror}{'; make room, and start again' if is_full else ''}"
    for link in reversed(chain):
        lines = [line for line in _BEAM_SUFFIX.sub("", str(link)).splitlines() if line.strip()]
        if lines:
            return f"{type(link).__name__}: {lines[0].strip()}"
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
