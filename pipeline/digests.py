"""Digests of values and versions of libraries, which name what made a model.

The export writes them beside the model. `pipeline/step_digests.py` digests the code.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = ("apache-beam", "keras", "tensorflow", "tfx")


def project_root() -> Path:
    """Returns the folder that holds the project's packages, installed or checked out."""
    return Path(__file__).resolve().parent.parent


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
