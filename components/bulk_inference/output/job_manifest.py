"""Makes `_manifest.json`, which describes a finished table and how it was made.

The job writes it last, so that a table with a manifest is complete.
"""

import contextlib
import datetime
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from components.bulk_inference.annotation.schema import COLUMNS, table_schema
from components.bulk_inference.config import BulkJob
from components.bulk_inference.output.counts import Counts
from components.bulk_inference.output.ledger import MANIFEST, UNKNOWN_LABEL, Ledger, UnitRecord
from components.bulk_inference.planning.identity import finding_bounds
from components.image_sources.named_counts import NamedCounts
from components.image_sources.naming import escaped, renamed_notes
from components.image_sources.repeated_names import repeated_notes
from trainer.installed import library_versions
from trainer.json_text import json_text
from trainer.model_card import ModelCard

LIBRARIES: Final = (
    "vaeline", "apache-beam", "keras", "numpy", "opencv-python-headless", "pyarrow", "tensorflow",
)  # fmt: skip
"""Libraries whose versions the manifest records: those that decode, compute and write."""


@dataclass
class Totals(Counts):
    """Sums the records of units."""

    ignored_by_reason: NamedCounts = field(default_factory=NamedCounts)
    renamed: dict[str, str] = field(default_factory=dict)
    repeated: NamedCounts = field(default_factory=NamedCounts)
    unknown: NamedCounts = field(default_factory=NamedCounts)
    bytes: int = 0
    files: int = 0
    batch_limit: int = 0
    unit_seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    with_findings: int = 0
    sources: dict[str, Counts] = field(default_factory=dict)

    def add(self, record: UnitRecord) -> None:
        """Adds the record of one unit."""
        self.add_counts(record)
        self.ignored_by_reason.update(NamedCounts.from_json(record.ignored_by_reason))
        self.renamed |= record.renamed
        self.repeated.update(NamedCounts.from_json(record.repeated))
        self.unknown.update(NamedCounts.from_json(record.unknown))
        self.bytes += sum(record.files.values())
        self.files += len(record.files)
        self.unit_seconds += record.seconds
        limits = [limit for limit in (self.batch_limit, record.batch_limit) if limit]
        self.batch_limit = min(limits, default=0)
        self.reasons.update(record.reasons)
        self.labels.update(record.labels)
        self.verdicts.update(record.verdicts)
        self.findings.update(record.findings)
        self.with_findings += record.with_findings
        self.sources.setdefault(record.source, Counts()).add_counts(record)

    def notes(self) -> list[str]:
        """Returns one line for each kind of name that was not taken as it is."""
        return [
            *renamed_notes(self.renamed),
            *repeated_notes(self.repeated),
            *_unknown_notes(self.unknown),
        ]


def _unknown_notes(unknown: NamedCounts) -> list[str]:
    """Describes numbers that are given labels and no class of the model, in at most one line."""
    labels = unknown.examples.get(UNKNOWN_LABEL, [])
    if not labels:
        return []
    return [
        f"given labels that are numbers and no class of the model: {unknown.total():,}"
        f" ({', '.join(map(repr, map(escaped, labels)))}); input.labels.names gives the names"
    ]


def write_manifest(
    ledger: Ledger,
    config: BulkJob,
    card: ModelCard,
    totals: Totals,
    result: dict[str, Any],
    command: list[str],
) -> None:
    """Writes the manifest.

    Args:
        ledger: The job's files; a manifest is there only if this run left the table as it was.
        config: The job.
        card: The model's card.
        totals: Sums over all units.
        result: The job's result.
        command: The command line; empty for a call from Python.
    """
    schema = table_schema(config.columns, card)
    content = {
        "written": _written_before(ledger)
        or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "config": config.model_dump(mode="json"),
        "model": {"path": card.path, "digests": card.answer_digests, "classes": list(card.classes)},
        "libraries": library_versions(LIBRARIES),
        "counts": {**totals.as_counts(), "units": result["units"]},
        "rejects": result["reasons"],
        "ignored": result["ignored_by_reason"],
        "labels": result["labels"],
        "verdicts": result["verdicts"],
        "findings": result["findings"],
        "rows_with_findings": result["with_findings"],
        "finding_bounds": finding_bounds(config, card),
        "sources": {name: counts.as_counts() for name, counts in sorted(totals.sources.items())},
        "output": {"files": totals.files, "bytes": totals.bytes},
        "timing": {
            "this_run_seconds": result["seconds"],
            "this_run_members": result["members_done_now"],
            **{
                name: result[name]
                for name in (
                    "images_per_second",
                    "startup_seconds",
                    "steady_images_per_second",
                )
            },
            "all_units_seconds": totals.unit_seconds,
        },
        "batch_limit": result["batch_limit"],
        "notes": result["notes"],
        "schema": [
            {"name": column.name, "type": str(column.type), "about": COLUMNS[column.name].about}
            for column in schema
        ],
        "drift": result["drift"],
    }
    ledger.write(MANIFEST, json_text(content, indent=2).encode() + b"\n")


def _written_before(ledger: Ledger) -> str:
    """Returns when the table was written that is still there; reviews of it stay valid."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return str(json.loads(ledger.read(MANIFEST))["written"])
    return ""
