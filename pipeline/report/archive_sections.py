"""Collects the facts of the archive report: counts, labels, uncertainty, drift and rejects.

Each function returns the values of one template or reports what is missing; `archive_report.py`
puts them in order.
"""

import posixpath
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.bulk_inference.annotation.schema import FINDINGS_COLUMN
from components.bulk_inference.model_card import read_card
from components.bulk_inference.output import ledger
from components.image_sources.config import InputConfig
from components.image_sources.pick import Found, pick_members
from pipeline.report import plots
from pipeline.report.album import Album
from pipeline.report.image_findings import findings_table, read_bounds
from pipeline.report.page import Facts, MissingPartError, isolated
from pipeline.report.table_scan import Row, Scan, scan_table
from trainer.errors import InputError
from trainer.model_card import ModelCard
from trainer.storage import files

_LISTED: Final = {"doubtful": 36, "outlying": 12, "disagreeing": 12, "group": 8}
_REJECTS: Final = 12
_MOST_CLASSES: Final = 100
_SURE: Final = 0.99
_VERDICTS: Final = ("accept", "review", "reject")


@dataclass
class Archive:
    """A finished bulk job: its manifest, one scan of its table, and pictures of the listed rows.

    Attributes:
        output: output folder of the job, local or remote.
        manifest: the job's manifest.
    """

    output: str
    manifest: dict[str, Any]
    _failure: Exception | None = field(default=None, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """Counts of members, rows, rejects, duplicates and others."""
        counts: dict[str, int] = self.manifest["counts"]
        return counts

    @property
    def config(self) -> dict[str, Any]:
        """The job's configuration."""
        config: dict[str, Any] = self.manifest["config"]
        return config

    @cached_property
    def _unit_files(self) -> list[str]:
        return ledger.Ledger(self.output).unit_files()

    def _files(self, folder: str) -> list[str]:
        return [name for name in self._unit_files if name.startswith(f"{folder}/")]

    @property
    def scan(self) -> Scan:
        """Scan of the table, read once; every section that uses it gets the same failure."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._scan
        except Exception as error:
            self._failure = error
            raise

    @cached_property
    def _scan(self) -> Scan:
        return scan_table(
            self.output,
            self._files(ledger.TABLE),
            self.config["format"],
            rows=self.counts["rows"],
            groups={v: self.manifest["verdicts"].get(v, 0) for v in _VERDICTS}
            | self.manifest.get("findings", {}),
            listed=_LISTED,
            classes=frozenset(self.manifest["model"]["classes"]),
        )

    @cached_property
    def rejects(self) -> list[dict[str, str]]:
        """The first rows of the rejects table."""
        rows: list[dict[str, str]] = []
        for file in self._files(ledger.REJECTS):
            content = files.read_bytes(posixpath.join(self.output, file))
            table = pq.read_table(pa.BufferReader(content)).slice(0, _REJECTS - len(rows))
            rows.extend(table.to_pylist())
            if len(rows) >= _REJECTS:
                break
        return rows

    @cached_property
    def pictures(self) -> Found:
        """Image files of all rows in any list, fetched together."""
        wanted: dict[str, set[str]] = {}
        try:
            for rows in self.scan.lists.values():
                for row in rows:
                    wanted.setdefault(row.source, set()).add(row.member)
        except Exception:
            # The sections report the problem with the table; rejects still have pictures.
            wanted = {}
        for reject in self.rejects:
            wanted.setdefault(reject["source"], set()).add(reject["member"])
        return pick_members(InputConfig.model_validate(self.config["input"]), wanted)

    @cached_property
    def card(self) -> ModelCard:
        """The model's card; an empty one if the model is missing or its card is damaged."""
        try:
            return read_card(self.manifest["model"]["path"])
        except (InputError, OSError, ValueError):
            return ModelCard()


def overview(archive: Archive) -> Facts:
    """Returns the count invariant, drift, and the counts of the verdicts."""
    drift = archive.manifest.get("drift") or {}
    counts = archive.counts
    accounted = counts["rows"] + counts["rejects"] + counts["duplicates"] + counts["ignored"]
    timing = archive.manifest["timing"]
    return {
        "counts": counts,
        "holds": counts["members"] == accounted,
        "alarms": [test["name"] for test in drift.get("tests", []) if test["alarm"]],
        "drift": drift,
        "verdicts": archive.manifest["verdicts"],
        "timing": timing,
        "size": archive.manifest["output"]["bytes"],
        "notes": archive.manifest["notes"],
    }


def labels(archive: Archive) -> Facts:
    """Returns rows by label, with the training data's mix and the estimated one."""
    mix = archive.manifest["labels"]
    if not mix:
        raise MissingPartError("The table has no labels: it was made by `embed`, or without them.")
    drift = archive.manifest.get("drift") or {}
    order = [name for name in archive.manifest["model"]["classes"] if name in mix]
    if len(order) > _MOST_CLASSES:
        order = sorted(order, key=lambda name: -mix[name])[:_MOST_CLASSES]
    total = sum(mix.values())
    rows = [
        {"name": name, "count": mix[name], "share": mix[name] / total,
         "training": drift.get("training_labels", {}).get(name),
         "estimated": drift.get("prior_shift", {}).get(name)}
        for name in order
    ]  # fmt: skip
    return {
        "rows": rows,
        "most": max(row["share"] for row in rows),
        "left_out": len(mix) - len(rows),
        "compared": bool(drift.get("training_labels")),
        "estimated": bool(drift.get("training_labels")) and drift.get("mix_differs", True),
    }


def distributions(archive: Archive) -> Facts:
    """Returns the distributions of confidence and outlier score over the archive."""
    scan = archive.scan
    figures = []
    probability = scan.values.get("probability")
    if probability is not None:
        low = float(np.floor(min(float(probability.min()), 0.9) * 10) / 10)
        unsure = float((probability < 0.5).mean())
        figures.append(
            plots.histogram(
                "Confidence", probability, label="probability of the label", bounds=(low, 1.0),
                log=True, alt=f"Median {np.median(probability):.3f}; {unsure:.1%} below one half",
            )
        )  # fmt: skip
    scores = scan.values.get("outlier_score")
    if scores is not None:
        marks = plots.threshold_marks(archive.card.calibration.thresholds.scores())
        high = max([float(np.quantile(scores, 0.999)), *(mark[0] * 1.1 for mark in marks)])
        figures.append(
            plots.histogram(
                "Outlier score", scores, label="outlier score", marks=marks,
                bounds=(float(np.quantile(scores, 0.001)), high), log=True,
                alt="; ".join(f"{n} above {place:.2f}" for place, n, _ in marks) or "no threshold",
            )
        )  # fmt: skip
    if not figures:
        raise MissingPartError("The table has neither a probability nor an outlier score.")
    return {"figures": figures, "every": scan.every}


def review(archive: Archive, album: Album) -> Facts:
    """Returns the rows that users should review first: the least certain ones."""
    listed = archive.scan.lists["doubtful"]
    # Beyond the first dozen, list uncertain rows only; confident predictions need no review.
    rows = [row for place, row in enumerate(listed) if place < 12 or (row.probability or 0) < _SURE]
    return {"cards": _cards(archive, album, rows)}


def outlying(archive: Archive, album: Album) -> Facts:
    """Returns the rows with the largest outlier scores."""
    return {"cards": _cards(archive, album, archive.scan.lists["outlying"])}


def verdicts(archive: Archive, album: Album) -> Facts:
    """Returns examples of each verdict, evenly spaced over the archive."""
    counts = archive.manifest["verdicts"]
    if not counts:
        raise MissingPartError("The table has no verdicts.")
    total = sum(counts.values())
    rows = [
        {"name": name, "count": counts[name], "share": counts[name] / total,
         "cards": _cards(archive, album, archive.scan.lists.get(name, []))}
        for name in _VERDICTS if counts.get(name)
    ]  # fmt: skip
    return {"rows": rows}


def findings(archive: Archive, album: Album) -> Facts:
    """Returns what was found about images, with examples evenly spaced over the archive."""
    manifest = archive.manifest
    bounds = read_bounds(manifest)
    if not bounds:
        raise MissingPartError(
            "The table has no findings: its columns leave them out, or the model has no bounds."
        )
    images = archive.counts["rows"]
    rows = findings_table(
        manifest["findings"],
        bounds,
        images,
        lambda name: _cards(archive, album, archive.scan.lists.get(name, [])),
    )
    return {"rows": rows, "found": manifest["rows_with_findings"], "images": images,
            "table": f"the column {FINDINGS_COLUMN} of the table"}  # fmt: skip


def given(archive: Archive, album: Album) -> Facts:
    """Compares the labels given by the archive with the model's."""
    scan = archive.scan
    if not scan.given:
        raise MissingPartError("The archive gives no labels to compare with.")
    return {"given": scan.given - scan.unknown, "unknown": scan.unknown, "agreeing": scan.agreeing,
            "cards": _cards(archive, album, scan.lists["disagreeing"])}  # fmt: skip


def drift(archive: Archive) -> Facts:
    """Returns each comparison with the training data."""
    found = archive.manifest.get("drift")
    if not found:
        raise MissingPartError("Drift was switched off (bulk.drift.enabled).")
    return {"drift": found}


def rejects(archive: Archive, album: Album) -> Facts:
    """Returns the members that are not usable images, by reason."""
    cards = [
        {"picture": album.file(archive.pictures.get((row["source"], row["member"]))),
         "alt": f"rejected: {row['member']}",
         "lines": [row["reason"], row["member"] or row["source"], row["detail"]]}
        for row in archive.rejects
    ]  # fmt: skip
    return {"reasons": archive.manifest["rejects"], "rejected": archive.counts["rejects"],
            "images_in": archive.counts["members"], "cards": cards,
            "left_out": archive.counts["rejects"] - len(cards)}  # fmt: skip


def job(archive: Archive) -> Facts:
    """Returns the archives, model, digests and command of the job."""
    manifest = archive.manifest
    return {"sources": manifest["sources"], "model": manifest["model"],
            "command": " ".join(manifest["command"]), "written": manifest["written"],
            "columns": manifest["schema"], "format": archive.config["format"]}  # fmt: skip


def _cards(archive: Archive, album: Album, rows: list[Row]) -> list[dict[str, Any]]:
    cards = []
    for row in rows:
        surety = "" if row.probability is None else f"{100 * row.probability:.1f}\u202f%"
        lines = [row.label or "no label"]
        if row.given_label is not None:
            lines.append(f"labelled {isolated(row.given_label)}")
        if row.outlier_score is not None and row.verdict:
            lines.append(f"{row.verdict} {row.outlier_score:.2f}".replace("-", "\u2212"))
        lines.append(row.member.rpartition("/")[2] or row.source)
        content = archive.pictures.get((row.source, row.member))
        alt = f"{row.member}: {row.label or 'no label'}"
        card = {"picture": album.file(content), "alt": alt, "lines": lines}
        cards.append({**card, "figure": surety if row.label else ""})
    return cards
