"""Computes digests of values, which identify a model's origin.

The export writes them to the model card. `pipeline/step_digests.py` computes digests of the code.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def project_root() -> Path:
    """Returns the folder that contains the project's packages, installed or checked out."""
    return Path(__file__).resolve().parent.parent


def value_digest(value: Mapping[str, Any]) -> str:
    """Computes the digest of a JSON-serialisable mapping, independent of the order of its keys.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
