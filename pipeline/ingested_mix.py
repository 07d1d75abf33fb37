"""Reads facts about the ingested images from the account of their ingest.

`run_fn.py` adds them to the model card, from which bulk jobs read them: formats and sizes for the
drift report, and bounds for findings.
"""

import json
import posixpath
from typing import Any

from trainer.storage import files


def read_mix(train_files: list[str]) -> dict[str, Any]:
    """Reads the formats and sizes of the images.

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


def read_finding_bounds(train_files: list[str]) -> dict[str, Any]:
    """Reads the bounds of findings about images, `ModelCard.findings`; empty if there are none."""
    bounds: dict[str, Any] = _read_account(train_files).get("finding_bounds", {})
    return bounds


def _read_account(train_files: list[str]) -> dict[str, Any]:
    examples = posixpath.dirname(posixpath.dirname(train_files[0]))
    try:
        account: dict[str, Any] = json.loads(
            files.read_bytes(posixpath.join(examples, "account.json"))
        )
    except FileNotFoundError:
        return {}
    return account
