"""`vaeline retrain`, `runs` and `gc`: what runs on a root folder, what ran, and what may go."""

from pathlib import Path
from typing import Any

import click

from pipeline.command import CONFIG_HELP, EXIT_NOT_BLESSED, SET_HELP, common

_ROOT = click.option(
    "--root", type=click.Path(path_type=Path), required=True, help="Folder of the runs."
)


@click.command()
@click.option("--config", "config_path", required=True, help=CONFIG_HELP)
@_ROOT
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
@click.option("--force", is_flag=True, help="Train whatever is known.")
@common
def retrain(
    terminal: Any, config_path: str, root: Path, overrides: tuple[str, ...], force: bool
) -> int:
    """Train again if there is a reason: new spans, drift, age; else end at once and say why.

    Made for cron: the same images are never trained on twice, and a run that was stopped goes on.
    Exit codes: 0 a model was pushed or there was nothing to do, 3 the model was refused by the
    gate, 6 another run is at work on this root, 75 preempted, 1 a step failed.
    """
    from pipeline.config import load_config
    from pipeline.orchestration.retrain import retrain as start

    config = load_config(config_path, overrides=overrides, root=root)
    result = start(terminal, config, root=root, force=force)
    terminal.result(result.as_dict())
    return EXIT_NOT_BLESSED if result.outcome and not result.outcome.blessed else 0


@click.command()
@_ROOT
@click.option("--keep-runs", type=click.IntRange(min=0), default=5, show_default=True,
              help="So many of the latest runs stay whole.")  # fmt: skip
@click.option("--images", "with_images", is_flag=True,
              help="Also images of earlier runs that a blessed model was made from.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Remove them; without it they are only listed.")
@common
def gc(terminal: Any, root: Path, keep_runs: int, with_images: bool, yes: bool) -> int:
    """Remove artifacts of old runs that no blessed or pushed model needs.

    Pushed versions are never touched. The runs stay on record; their artifacts are marked deleted.
    """
    from pipeline.local_runner import METADATA_FILE
    from pipeline.orchestration.lock import run_lock
    from pipeline.orchestration.retention import plan, remove
    from pipeline.run_record import sqlite_connection

    connection = sqlite_connection(root / METADATA_FILE)
    with run_lock(root, "vaeline gc"):
        removals = plan(
            connection, root / "artifacts", keep_runs=keep_runs, with_images=with_images
        )
        if yes:
            remove(connection, removals)
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


@click.group()
def runs() -> None:
    """Show what ran: steps, times, inputs, metrics, verdicts, and where a model comes from."""


@runs.command("list")
@_ROOT
@click.option("--latest", type=int, default=20, show_default=True, help="How many.")
@common
def list_runs(terminal: Any, root: Path, latest: int) -> int:
    """List the runs of a root folder, oldest first."""
    from pipeline.console import duration

    summaries = _summaries(root, latest)
    terminal.table(
        f"runs of {root}",
        [
            (s.run[:19], s.state, duration(s.seconds), f"{s.cached}/{len(s.steps)}", _outcome(s))
            for s in summaries
        ],
        header=("run", "state", "time", "cached", "what came of it"),
    )
    terminal.result({"root": str(root), "runs": [summary.as_dict() for summary in summaries]})
    return 0


@runs.command()
@click.argument("name", required=False)
@_ROOT
@common
def show(terminal: Any, root: Path, name: str | None) -> int:
    """Show one run, by NAME or the beginning of it; the latest by default."""
    from pipeline.console import duration
    from pipeline.local_runner import OutputError

    found = [s for s in _summaries(root, None) if s.run.startswith(name or "")]
    if not found:
        raise OutputError(f"{root}: there is no run {name!r}; see vaeline runs list --root {root}")
    summary = found[-1]
    terminal.table(
        f"run {summary.run}",
        [
            ("state", summary.state),
            ("started because", summary.reason or "somebody started it"),
            ("time", duration(summary.seconds)),
            ("images", "-" if summary.images is None else f"{summary.images:,}"),
            ("span", "-" if summary.span is None else str(summary.span)),
            ("metrics", _metrics(summary.metrics)),
            ("gate", summary.verdict),
            *(("refused because", refusal) for refusal in summary.refusals),
            ("pushed model", summary.pushed or "nothing was pushed"),
        ],
    )
    terminal.table(
        "steps",
        [
            (step["name"], step["state"], duration(step["seconds"]),
             _folders(step["inputs"], root), _folders(step["outputs"], root))
            for step in summary.steps
        ],
        header=("step", "state", "time", "read", "wrote"),
    )  # fmt: skip
    terminal.result(summary.as_dict())
    return 0


@runs.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--root", type=click.Path(path_type=Path), default=None,
              help="Folder of the runs; looked for above MODEL by default.")  # fmt: skip
@common
def lineage(terminal: Any, model: Path, root: Path | None) -> int:
    """Go back from a pushed MODEL (the folder of a version) to its archives and its code."""
    from pipeline.local_runner import METADATA_FILE
    from pipeline.orchestration.lineage import LineageError, find_root, trace
    from pipeline.run_record import read_runs, sqlite_connection

    place = root or find_root(model, METADATA_FILE)
    if place is None:
        raise LineageError(f"{model}: no {METADATA_FILE} above it; name the root with --root")
    origin = trace(read_runs(sqlite_connection(place / METADATA_FILE)), model)
    terminal.table(
        f"where {model} comes from",
        [
            ("pushed by run", origin.pushed_by),
            ("trained by run", origin.trained_by),
            *((("started from", origin.started_from),) if origin.started_from else ()),
            ("archives", "\n".join(origin.archives)),
            ("images", "-" if origin.images is None else f"{origin.images:,}"),
            ("span", "-" if origin.span is None else str(origin.span)),
            ("fingerprint", origin.fingerprint),
            ("code", origin.code),
            *((f"digest: {name}", digest) for name, digest in origin.digests.items()),
            *((name, f"{value:.4f}") for name, value in origin.metrics.items()),
        ],
    )
    terminal.table(
        "steps behind it",
        [
            (step["run"][:19], step["step"], _folders(step["outputs"], place))
            for step in origin.steps
        ],
        header=("run", "step", "wrote"),
    )
    terminal.result(origin.as_dict())
    return 0


def _summaries(root: Path, latest: int | None) -> list[Any]:
    from pipeline.local_runner import METADATA_FILE
    from pipeline.orchestration.lock import current_owner
    from pipeline.orchestration.runs import summarise
    from pipeline.run_record import read_runs, sqlite_connection

    found = read_runs(sqlite_connection(root / METADATA_FILE), latest=latest)
    is_held = current_owner(root) is not None
    return [summarise(run, is_latest=run is found[-1], is_held=is_held) for run in found]


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "-"


def _outcome(summary: Any) -> str:
    lines = [f"started because {summary.reason}"] if summary.reason else []
    lines += [f"span {summary.span}"] if summary.span else []
    lines += [_metrics(summary.metrics)] if summary.metrics else []
    lines += [] if summary.blessed is None else [f"gate: {summary.verdict}"]
    lines += summary.refusals
    lines += [f"pushed: {summary.pushed}"] if summary.pushed else []
    return "\n".join(lines)


def _folders(folders: dict[str, list[str]], root: Path) -> str:
    """Names artifacts by their number below the root, as the folders on disk are."""
    names = []
    for name, uris in folders.items():
        for uri in uris:
            is_below = Path(uri).is_relative_to(root / "artifacts")
            names.append(
                str(Path(uri).relative_to(root / "artifacts")) if is_below else f"{name}: {uri}"
            )
    return "\n".join(names)
