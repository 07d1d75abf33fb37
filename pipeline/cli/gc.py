"""Defines `vaeline gc`: artifacts of old runs, listed or removed."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.command import common, runs_root_option

if TYPE_CHECKING:
    # For types only, because the module imports ML Metadata, which is slow.
    from pipeline.runs.retention import Removal


@click.command()
@runs_root_option
@click.option("--keep-runs", type=click.IntRange(min=0), default=5, show_default=True,
              help="So many of the latest runs stay whole.")  # fmt: skip
@click.option("--images", "with_images", is_flag=True,
              help="Also images of earlier runs that a blessed model was made from.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Remove them; without it they are only listed.")
@common
def gc(terminal: Any, root: str, keep_runs: int, with_images: bool, yes: bool) -> int:
    """Remove artifacts of old runs that no blessed or pushed model needs.

    Pushed versions are never touched. The runs stay on record; their artifacts are marked deleted.
    """
    from pipeline.working_root import fetched_root, working_root

    # Listing writes nothing, so that it needs neither the lock nor write access.
    if yes:
        with working_root(root, "vaeline gc", say=terminal.say) as place:
            removals = _collect(place.folder, keep_runs, with_images, yes=True)
    else:
        removals = _collect(fetched_root(root), keep_runs, with_images, yes=False)
    size = sum(removal.size for removal in removals)
    terminal.table(
        "removed" if yes else "would be removed; --yes does it",
        [
            *((r.kind, f"{r.size / 2**20:,.1f} MiB", r.path) for r in removals),
            ("all", f"{size / 2**20:,.1f} MiB", f"{len(removals):,} artifacts"),
        ],
    )
    terminal.result(
        {
            "removed": yes,
            "artifacts": len(removals),
            "bytes": size,
            "removals": [removal.as_dict() for removal in removals],
        }
    )
    return 0


def _collect(root: Path, keep_runs: int, with_images: bool, *, yes: bool) -> "list[Removal]":
    from pipeline.orchestration.lock import run_lock
    from pipeline.runs.retention import plan, remove_artifacts
    from pipeline.runs.store import open_metadata

    # Fails for a folder without runs before the lock writes its files there.
    open_metadata(root)
    with run_lock(root, "vaeline gc") if yes else contextlib.nullcontext():
        removals = plan(root, keep_runs=keep_runs, with_images=with_images)
        if yes:
            remove_artifacts(root, removals)
    return removals
