"""Reads formats, sizes and counts of images from the account of their ingest.

`run_fn.py` adds formats and sizes to the model card, from which the drift report of a bulk job
reads them.
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
    account = _read_account(train_files)
    formats = account.get("formats", {})
    if not formats:
        return {}
    sizes = account.get("sizes", {})
    return {"mix": {"images": sum(formats.values()), "format": formats, "size": sizes}}


def count_images(train_files: list[str], split: str) -> int:
    """Returns the number of images in a split; 0 if the examples have no account."""
    return int(_read_account(train_files).get("splits", {}).get(split, 0))


def _read_account(train_files: list[str]) -> dict[str, Any]:
    examples = posixpath.dirname(posixpath.dirname(train_files[0]))
    try:
        account: dict[str, Any] = json.loads(
            files.read_bytes(posixpath.join(examples, "account.json"))
        )
    except FileNotFoundError:
        return {}
    return account
