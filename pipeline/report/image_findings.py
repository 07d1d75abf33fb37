"""Collects what was found about images for the reports: counts, bounds and a few pictures of each.

`run_sections.py` and `archive_sections.py` add the pictures, each from where its images are.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from components.image_findings.finding_rules import describe_bounds
from pipeline.report.album import Album
from pipeline.report.originals import Originals
from pipeline.report.page import Facts, MissingPartError
from pipeline.runs import artifacts
from pipeline.runs.run import Run
from trainer.model_card import FindingBounds

_ROWS: Final = 4_000
"""Rows of the table that are read."""
_SHOWN: Final = 8
_SIDE: Final = 72

Cards = list[dict[str, Any]]


def findings_table(
    counts: Mapping[str, int],
    bounds: Mapping[str, FindingBounds],
    images: int,
    cards_of: Callable[[str], Cards],
) -> list[dict[str, Any]]:
    """Returns a row for each finding that was looked for, the most frequent one first.

    Args:
        counts: Images by finding.
        bounds: Bounds by finding.
        images: Number of all images.
        cards_of: Returns pictures of images with a finding.
    """
    return [
        {
            "name": name.replace("_", " "),
            "count": counts.get(name, 0),
            "share": counts.get(name, 0) / max(images, 1),
            "bound": describe_bounds(name, bounds[name]),
            "cards": cards_of(name) if counts.get(name) else [],
        }
        for name in sorted(bounds, key=lambda name: (-counts.get(name, 0), name))
    ]


def read_bounds(record: Mapping[str, Any]) -> dict[str, FindingBounds]:
    """Reads the bounds by finding from an account or a manifest; empty if it has none."""
    found = record.get("finding_bounds", {})
    return {name: FindingBounds.model_validate(values) for name, values in found.items()}


def run_findings(run: Run, album: Album, originals: Originals) -> Facts:
    """Returns the findings of an ingest.

    Raises:
        MissingPartError: the ingest looked for none, or had too few training images.
    """
    account = artifacts.read_account(run)
    bounds = read_bounds(account)
    if not bounds:
        raise MissingPartError(
            "Nothing was looked for: it is switched off (input.findings.enabled), or there were too"
            " few training images to learn from."
        )
    rows = artifacts.read_rows(run, "findings.parquet", _ROWS).to_pylist()
    by_finding = {
        name: _spaced([row for row in rows if name in row["findings"]]) for name in bounds
    }
    keys = [row["image"] for chosen in by_finding.values() for row in chosen]
    pictures = originals.thumbnails(keys, even_if_stored=True)

    def cards_of(name: str) -> Cards:
        return [
            {
                "picture": album.picture(pictures.get(row["image"]), _SIDE),
                "alt": f"{name}: {row['image']}",
                "lines": [
                    row["label"] or "no label",
                    row["split"],
                    row["image"].rpartition("/")[2],
                ],
            }
            for row in by_finding[name]
        ]

    images = account["examples"]
    return {
        "rows": findings_table(account["findings"], bounds, images, cards_of),
        "found": account["images_with_findings"],
        "images": images,
        "table": "findings.parquet",
    }


def _spaced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    return [rows[at] for at in np.unique(np.linspace(0, len(rows) - 1, _SHOWN).astype(int))]
