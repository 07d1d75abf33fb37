"""Defines the result of a job, for the command line, the manifest and other programs.

`job.py` fills it from the records of all units.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from components.bulk_inference.output.counts import Counts
from components.bulk_inference.output.job_manifest import Totals
from components.bulk_inference.running.progress import TALLY
from trainer.model_card import ModelCard


@dataclass
class BulkResult(Counts):
    """Holds the result of a bulk job.

    Attributes:
        output: The output folder.
        model: The model's folder.
        ignored_by_reason: Their count and examples, see `NamedCounts.to_json`.
        units: Work units of all archives.
        units_done_now: Units that this run processed.
        members_done_now: Members in these units.
        reused: Rows that this run reused from an earlier version of the archive.
        seconds: Wall time of this run.
        images_per_second: Members processed by this run over the time of the pipeline, including
            start-up.
        startup_seconds: Time until the first batch finished: imports, loading, tracing; 0 if the
            workers are other processes.
        steady_images_per_second: Throughput after start-up.
        batch_limit: Largest number of images per model call at the end; smaller than configured
            if memory ran out.
        reasons: Rejects by `stage/reason`.
        labels: Rows by label.
        verdicts: Rows by verdict.
        findings: Rows by finding.
        with_findings: Rows with any finding.
        near_groups: Groups of near-duplicates; 0 unless they are looked for.
        near_images: Images in these groups.
        notes: Notes for the user, such as why the table was rebuilt.
        drift: The drift report; None if it is disabled.
        estimate: The estimate of a dry run; None for a real run.
    """

    output: str
    model: str
    ignored_by_reason: dict[str, Any] = field(default_factory=dict)
    units: int = 0
    units_done_now: int = 0
    members_done_now: int = 0
    reused: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    startup_seconds: float = 0.0
    steady_images_per_second: float = 0.0
    batch_limit: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)
    with_findings: int = 0
    near_groups: int = 0
    near_images: int = 0
    notes: list[str] = field(default_factory=list)
    drift: dict[str, Any] | None = None
    estimate: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns all attributes as JSON-compatible types."""
        return asdict(self)

    def fill(self, totals: Totals, card: ModelCard) -> None:
        """Sets the counts from the totals over all units."""
        self.add_counts(totals)
        self.batch_limit = totals.batch_limit
        self.ignored_by_reason = totals.ignored_by_reason.to_json()
        self.reasons = dict(sorted(totals.reasons.items()))
        self.verdicts = dict(sorted(totals.verdicts.items()))
        self.findings = dict(totals.findings.most_common())
        self.with_findings = totals.with_findings
        self.labels = {name: totals.labels[name] for name in card.classes if name in totals.labels}

    def time(self, begin: float, end: float) -> None:
        """Computes the rates from the pipeline's start and end in monotonic seconds."""
        self.images_per_second = self.members_done_now / (end - begin)
        if TALLY.first is not None and TALLY.first[0] > begin:
            first, members = TALLY.first
            self.startup_seconds = first - begin
            steady = self.members_done_now - members
            self.steady_images_per_second = steady / (end - first) if end > first else 0.0
