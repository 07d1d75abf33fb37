"""Digests that name what made a model: the project's code, a configuration, a set of files.

The graph puts them into exec properties, so that TFX's cache sees a changed line of code or a
changed value; the export writes them beside the model, so that a table names what labelled it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("pipeline", "components", "trainer", "serving")
_LIBRARIES = ("apache-beam", "keras", "tensorflow", "tfx")


def project_root() -> Path:
    """Returns the folder that holds the project's packages, installed or checked out."""
    return Path(__file__).resolve().parent.parent


def code_digest() -> str:
    """Digests every Python file of the project and the versions of what computes for it.

    TFX keys its cache on the dotted path of a function and not on what the function says
    (`run_fn="pipeline.run_fn.run_fn"` is the same string after an edit), so the digest goes into
    the exec properties of every component that runs project code.

    Returns:
        16 hexadecimal digits, the same for the same code wherever it is installed.
    """
    digest = hashlib.sha256()
    for path in _sources(_PACKAGES):
        relative = path.relative_to(project_root()).as_posix()
        digest.update(relative.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for name, version in sorted(library_versions().items()):
        digest.update(f"{name}=={version}".encode())
    return digest.hexdigest()[:16]


def library_versions(names: Iterable[str] = _LIBRARIES) -> dict[str, str]:
    """Looks up installed versions without importing the libraries.

    Returns:
        Version by distribution name; `""` for one that is not installed.
    """
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def value_digest(value: Mapping[str, Any]) -> str:
    """Digests a JSON-serialisable mapping, whatever the order of its keys.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sources(packages: Iterable[str]) -> list[Path]:
    files: list[Path] = []
    for package in packages:
        files.extend((project_root() / package).rglob("*.py"))
    return sorted(files)
