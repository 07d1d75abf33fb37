"""Defines `vaeline runs`: what ran on a root folder, and where a model comes from."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.command import common, runs_root_option


@click.group()
def runs() -> None:
    """Show what ran: steps, times, inputs, metrics, verdicts, and where a model comes from."""


@runs.command("list")
@runs_root_option
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
        header=("run", "state", "time", "cached", "outcome"),
    )
    terminal.result({"root": str(root), "runs": [summary.as_dict() for summary in summaries]})
    return 0


@runs.command()
@click.argument("name", required=False)
@runs_root_option
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
    from pipeline.orchestration.lock import current_holder
    from pipeline.orchestration.runs import summarise
    from pipeline.run_record import read_runs, sqlite_connection

    found = read_runs(sqlite_connection(root / METADATA_FILE), latest=latest)
    is_held = current_holder(root) is not None
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
