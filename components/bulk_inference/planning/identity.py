"""Defines the identity of a job, which its output records (`output/ledger.py`)."""

import hashlib
from typing import Any, Final

from components.bulk_inference.annotation.schema import FINDINGS_COLUMN
from components.bulk_inference.config import BulkJob
from components.image_findings.finding_rules import bounds_in_use
from trainer.model_card import ModelCard

_VERSION: Final = 1
"""Version of the layout and of the numerical results; an output of another version is replaced."""


def job_identity(config: BulkJob, card: ModelCard) -> dict[str, Any]:
    """Returns everything that determines the rows; jobs of equal identity share a table."""
    bounds = finding_bounds(config, card)
    labels = config.input.labels.model_dump(mode="json")
    if labels["unreadable"] == "ignore":
        # Tables from before this option keep their identity.
        del labels["unreadable"]
    return {
        "layout": _VERSION,
        "digests": card.answer_digests,
        "classes": hashlib.sha256("\0".join(card.classes).encode()).hexdigest()[:16],
        "format": config.format,
        "columns": list(config.columns),
        "partition_by": config.partition_by,
        "duplicates": config.duplicates,
        "limits": config.input.limits.model_dump(mode="json"),
        "labels": labels,
        # Tables from before these options keep their identity.
        **({"near_duplicates": True} if config.near_duplicates else {}),
        **({"findings": bounds} if bounds else {}),
    }


def finding_bounds(config: BulkJob, card: ModelCard) -> dict[str, dict[str, float]]:
    """Returns the bounds of the findings in the table; empty if it has no such column."""
    if FINDINGS_COLUMN not in config.columns:
        return {}
    bounds = bounds_in_use(card.findings, config.input.findings)
    return {name: bound.model_dump(exclude_none=True) for name, bound in bounds.items()}
