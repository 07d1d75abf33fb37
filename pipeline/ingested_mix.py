"""Reads the formats and sizes of the training images from the account of their ingest.

`run_fn.py` adds them to the model card, from which the drift report of a bulk job reads them.
"""

import json
import posixpath
from typing import Any

from trainer.storage import files


def read_mix(train_files: list[str]) -> dict[str, Any]:
    """Reads the account next to the splits.

    Args:
        train_files: Patterns of the training records, `EXAMPLES/Split-train/*`.

    Returns:
        `mix`: `images` (all usable ones), and images by `format` and by `size`; empty if the
        examples have no such account.
    """
    examples = posixpath.dirname(posixpath.dirname(train_files[0]))
    path = posixpath.join(examples, "account.json")
    try:
        account = json.loads(files.read_bytes(path))
    except FileNotFoundError:
        return {}
    formats = account.get("formats", {})
    if not formats:
        return {}
    sizes = account.get("sizes", {})
    return {"mix": {"images": sum(formats.values()), "format": formats, "size": sizes}}
