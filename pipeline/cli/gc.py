"""Defines `vaeline gc`: lists or removes artifacts and logs of old runs, and leftovers."""

import contextlib
from typing import Any

import click

from pipeline.cli.command import common, runs_root_option


@click.command()
@runs_root_option
@click.option("--keep-runs", type=click.IntRange(min=0), default=5, show_default=True,
              help="So many of the latest runs stay whole.")  # fmt: skip
@click.option("--images", "with_images", is_flag=True,
              help="Also images of earlier runs that a blessed model was made from.")  # fmt: skip
@click.option("--pruned", "with_pruned", is_flag=True,
              help="Also blessed models whose pushed version was pruned.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Remove them; without it they are only listed.")
@common
def gc(
    terminal: Any, root: str, keep_runs: int, with_images: bool, with_pruned: bool, yes: bool
) -> int:
    """Remove artifacts of old runs that no blessed or pushed model needs.

    What killed runs left goes, too, unless one of the latest runs may resume it, and so do the
    logs of commands before these runs. Pushed versions are never touched. The runs stay on record;
    their artifacts are marked deleted.
    """
    from pipeline.orchestration.lock import is_held, run_lock
    from pipeline.runs.retention import plan, remove_artifacts
    from pipeline.runs.store import open_metadata
    from pipeline.working_root import fetched_root, working_root

    folder = fetched_root(root)
    # Fails for a root without runs before the lock writes its files there.
    open_metadata(folder)
    with contextlib.ExitStack() as stack:
        # Listing writes nothing, so that it needs neither the lock nor write access.
        if yes:
            stack.enter_context(working_root(root, "vaeline gc", say=terminal.say))
            stack.enter_context(run_lock(folder, "vaeline gc"))
        removals = plan(
            folder,
            keep_runs=keep_runs,
            with_images=with_images,
            with_pruned=with_pruned,
            is_held=not yes and is_held(root, folder),
        )
        if yes:
            remove_artifacts(folder, removals)
    size = sum(removal.size for removal in removals)
    terminal.table(
        "removed" if yes else "would be removed; --yes does it",
        [
            *((r.kind, f"{r.size / 2**20:,.1f} MiB", r.path) for r in removals),
            ("all", f"{size / 2**20:,.1f} MiB", f"{len(removals):,} items"),
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
