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
    return EXIT_NOT_BLESSED if result.training and not result.training.blessed else 0


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
    from pipeline.orchestration.lock import run_lock
    from pipeline.runs.retention import plan, remove
    from pipeline.runs.store import open_store

    # Fails for a folder without runs, before the lock writes its files there.
    open_store(root)
    with run_lock(root, "vaeline gc"):
        removals = plan(root, keep_runs=keep_runs, with_images=with_images)
        if yes:
            remove(root, removals)
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

    found = _read_runs(root, latest)
    terminal.table(
        f"runs of {root}",
        [
            (run.name[:19], run.state, duration(run.seconds),
             f"{run.cached_steps}/{len(run.steps)}", _outcome(run))
            for run in found
        ],
        header=("run", "state", "time", "cached", "what came of it"),
    )  # fmt: skip
    terminal.result({"root": str(root), "runs": [run.as_dict() for run in found]})
    return 0


@runs.command()
@click.argument("name", required=False)
@_ROOT
@common
def show(terminal: Any, root: Path, name: str | None) -> int:
    """Show one run, by NAME or the beginning of it; the latest by default."""
    from pipeline.console import duration
    from pipeline.local_runner import OutputError

    found = [run for run in _read_runs(root, None) if run.name.startswith(name or "")]
    if not found:
        raise OutputError(f"{root}: there is no run {name!r}; see vaeline runs list --root {root}")
    run = found[-1]
    terminal.table(
        f"run {run.name}",
        [
            ("state", run.state),
            ("started because", run.reason or "somebody started it"),
            ("time", duration(run.seconds)),
            ("images", "-" if run.images is None else f"{run.images:,}"),
            ("span", "-" if run.span is None else str(run.span)),
            ("metrics", _metrics(run.metrics)),
            ("gate", run.verdict),
            *(("refused because", refusal) for refusal in run.refusals),
            ("pushed model", run.pushed or "nothing was pushed"),
        ],
    )
    terminal.table(
        "steps",
        [
            (step.name, step.state, duration(step.seconds),
             _folders(step.inputs, root), _folders(step.outputs, root))
            for step in run.steps.values()
        ],
        header=("step", "state", "time", "read", "wrote"),
    )  # fmt: skip
    terminal.result(run.as_dict())
    return 0


@runs.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--root", type=click.Path(path_type=Path), default=None,
              help="Folder of the runs; looked for above MODEL by default.")  # fmt: skip
@common
def lineage(terminal: Any, model: Path, root: Path | None) -> int:
    """Go back from a pushed MODEL (the folder of a version) to its archives and its code."""
    from pipeline.runs.lineage import find_root, trace
    from pipeline.runs.store import read_runs

    place = root or find_root(model)
    origin = trace(read_runs(place), model)
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


def _read_runs(root: Path, latest: int | None) -> list[Any]:
    from pipeline.orchestration.lock import current_holder
    from pipeline.runs.store import read_runs

    return read_runs(root, latest=latest, is_held=current_holder(root) is not None)


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "-"


def _outcome(run: Any) -> str:
    lines = [f"started because {run.reason}"] if run.reason else []
    lines += [f"span {run.span}"] if run.span else []
    lines += [_metrics(run.metrics)] if run.metrics else []
    lines += [] if run.blessed is None else [f"gate: {run.verdict}"]
    lines += run.refusals
    lines += [f"pushed: {run.pushed}"] if run.pushed else []
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
