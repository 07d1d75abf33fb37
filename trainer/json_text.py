"""Formats values as JSON that every parser reads.

Everything that users and other programs read goes through `json_text`: `--json`, JSON Lines, lists
in CSV, manifests and reports.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(value: Any, **options: Any) -> str:
    """Formats a value, with null for numbers that are not finite.

    Python would write them as `NaN` and `Infinity`, which are no JSON (RFC 8259, section 6).

    Args:
        value: Plain values, nested.
        options: Options of `json.dumps`.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        # Rare, so that the usual values are visited only once, and by C code.
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
