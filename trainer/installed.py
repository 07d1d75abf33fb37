"""Reads the versions of installed libraries, which results depend on."""

from collections.abc import Iterable
from importlib import metadata

_LIBRARIES = ("apache-beam", "keras", "tensorflow", "tfx")


def library_versions(names: Iterable[str] = _LIBRARIES) -> dict[str, str]:
    """Reads installed versions without importing the libraries.

    Returns:
        Versions by distribution name; `""` for one that is not installed.
    """
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions
