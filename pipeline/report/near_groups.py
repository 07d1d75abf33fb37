"""Collects groups of near-duplicates for the run report, the ones that need a look first.

`run_sections.py` calls it for the section on duplicates.
"""

from typing import Any, Final

from pipeline.report.album import Album
from pipeline.report.originals import Originals
from pipeline.runs import artifacts
from pipeline.runs.run import Run

_ROWS: Final = 4_000
"""Rows of the table that are read."""
_GROUPS: Final = 8
_MEMBERS: Final = 6
_SIDE: Final = 72


def near_groups(run: Run, album: Album, originals: Originals) -> list[list[dict[str, Any]]]:
    """Returns cards of the images of a few groups; none if near-duplicates were not looked for.

    Groups with more than one label come first, then those with images that were moved or dropped.
    """
    if not artifacts.read_account(run).get("near_duplicates", {}).get("images"):
        return []
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in artifacts.read_rows(run, "near_duplicates.parquet", _ROWS).to_pylist():
        groups.setdefault(row["group"], []).append(row)
    several = [rows for rows in groups.values() if len(rows) > 1]
    several.sort(key=_urgency)
    shown = [sorted(rows, key=_distance)[:_MEMBERS] for rows in several[:_GROUPS]]
    keys = [row["image"] for rows in shown for row in rows]
    pictures = originals.thumbnails(keys, even_if_stored=True)
    return [
        [
            {
                "picture": album.picture(pictures.get(row["image"]), _SIDE),
                "alt": f"near-duplicate: {row['image']}",
                "lines": [
                    row["label"] or "no label",
                    f"{row['split']}, {_fate(row)}",
                    row["image"],
                ],
            }
            for row in rows
        ]
        for rows in shown
    ]


def _urgency(rows: list[dict[str, Any]]) -> tuple[int, int, int]:
    labels = len({row["label"] for row in rows} - {None})
    changed = sum(row["moved"] or row["dropped"] for row in rows)
    return -labels, -changed, -len(rows)


def _distance(row: dict[str, Any]) -> float:
    return float(row["distance"])


def _fate(row: dict[str, Any]) -> str:
    if row["dropped"]:
        return "dropped"
    return "moved" if row["moved"] else f"distance {row['distance']:.4f}"
