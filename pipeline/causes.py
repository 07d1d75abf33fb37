"""Finds the line that a person needs in an error that has come through several layers."""

import re

# Errors that people cause: their message is the whole answer. Beam workers in other processes
# send errors as text, so the names are looked for in the text, too.
_USER_ERRORS = (
    "AnomalyError",
    "ConfigError",
    "CountLawError",
    "InputError",
    "LineageError",
    "LockedError",
    "OutputError",
    "PredictError",
    "PreemptedError",
    "ServiceError",
    "ServingError",
    "TrainingDivergedError",
    "UnblessedModelError",
)
_IN_TEXT = re.compile(
    r"^(?:[\w.]+\.)?(?:" + "|".join(_USER_ERRORS) + r"): (?P<message>.+)$", re.MULTILINE
)
_BEAM_SUFFIX = re.compile(r"\s*\[while running .*$", re.DOTALL)


def cause(error: BaseException) -> str:
    """Puts an error into a line or two.

    Args:
        error: What was raised, possibly by Beam or TFX around the real cause.

    Returns:
        The message of the outermost error that people cause, if there is one; else what the
        operating system said; else the type and first line of the innermost error.
    """
    chain = _chain(error)
    for link in chain:
        if type(link).__name__ in _USER_ERRORS:
            return _BEAM_SUFFIX.sub("", str(link))
    for link in chain:
        if found := _IN_TEXT.search(str(link)):
            return _BEAM_SUFFIX.sub("", found["message"])
    for link in reversed(chain):
        if isinstance(link, OSError) and link.strerror:
            place = f"{link.filename}: " if link.filename else ""
            return f"{place}{link.strerror}"
    for link in reversed(chain):
        lines = [line for line in _BEAM_SUFFIX.sub("", str(link)).splitlines() if line.strip()]
        if lines:
            return f"{type(link).__name__}: {lines[0].strip()}"
    return type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    """Lists an error and its causes, outermost first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
