"""Defines `vaeline runs`: the runs of a root folder, and the origin of a model."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.command import common, root_type, runs_root_option


@click.group()
def runs() -> None:
    """Show what ran: steps, times, inputs, metrics, verdicts, and where a model comes from."""


@runs.command("list")
@runs_root_option
@click.option(
    "--latest", type=click.IntRange(min=1), default=20, show_default=True, help="How many."
)
@common
def list_runs(terminal: Any, root: str, latest: int) -> int:
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
        header=("run", "state", "time", "cached", "outcome"),
    )  # fmt: skip
    terminal.result({"root": root, "runs": [run.as_dict() for run in found]})
    return 0


@runs.command()
@click.argument("name", required=False)
@runs_root_option
@common
def show(terminal: Any, root: str, name: str | None) -> int:
    """Show one run, by NAME or the beginning of it; the latest by default."""
    from pipeline.console import duration
    from pipeline.local_runner import RootError

    found = [run for run in _read_runs(root, None) if run.name.startswith(name or "")]
    if not found:
        raise RootError(f"{root}: there is no run {name!r}; see vaeline runs list --root {root}")
    run = found[-1]
    terminal.table(
        f"run {run.name}",
        [
            ("state", run.state),
            ("started because", run.reason or "somebody started it"),
            ("time", duration(run.seconds)),
            ("images", "-" if run.images is None else f"{run.images:,}"),
            ("span", run.span_title or "-"),
            ("metrics", _metrics(run.metrics)),
            ("gate", run.verdict),
            *(("refused because", refusal) for refusal in run.refusals),
            ("pushed model", run.pushed or "nothing was pushed"),
        ],
    )
    terminal.table(
        "steps",
        [
            (step.name, run.state_of(step), duration(step.seconds),
             _folders(step.inputs, run.root), _folders(step.outputs, run.root))
            for step in run.steps.values()
        ],
        header=("step", "state", "time", "read", "wrote"),
    )  # fmt: skip
    terminal.result(run.as_dict())
    return 0


@runs.command()
@click.argument("model")
@click.option("--root", type=root_type, default=None,
              help="Folder of the runs; looked for above MODEL by default.")  # fmt: skip
@common
def lineage(terminal: Any, model: str, root: str | None) -> int:
    """Go back from a pushed MODEL to its archives and code.

    MODEL is a version's folder or DIR@ALIAS; DIR alone is the version that is served.
    """
    from components.model_push.versions import MODEL_FILE, newest_folders
    from pipeline.runs.lineage import find_root, trace
    from pipeline.runs.step import span_title
    from pipeline.runs.store import read_runs
    from pipeline.working_root import fetched_root
    from trainer.model_address import resolve_model
    from trainer.storage import files

    model = resolve_model(model)
    if not files.exists(f"{model.rstrip('/')}/{MODEL_FILE}"):
        model = next(newest_folders(model), model)
    place = fetched_root(root) if root else find_root(model)
    origin = trace(read_runs(place), model)
    terminal.table(
        f"where {model} comes from",
        [
            ("pushed by run", origin.pushed_by),
            ("trained by run", origin.trained_by),
            *((("started from", origin.started_from),) if origin.started_from else ()),
            ("archives", "\n".join(origin.archives)),
            ("images", "-" if origin.images is None else f"{origin.images:,}"),
            ("span", span_title(origin.span, origin.archives) or "-"),
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


def _read_runs(root: str, latest: int | None) -> list[Any]:
    from pipeline.orchestration.lock import is_held
    from pipeline.runs.store import read_runs
    from pipeline.working_root import fetched_root

    folder = fetched_root(root)
    return read_runs(folder, latest=latest, is_held=is_held(root, folder))


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "-"


def _outcome(run: Any) -> str:
    lines = [f"started because {run.reason}"] if run.reason else []
    lines += [f"{run.state} in {run.ended_in}"] if run.ended_in else []
    lines += [f"span {run.span_title}"] if run.span else []
    lines += [_metrics(run.metrics)] if run.metrics else []
    lines += [] if run.blessed is None else [f"gate: {run.verdict}"]
    lines += run.refusals
    lines += [f"pushed: {run.pushed}"] if run.pushed else []
    return "\n".join(lines)


def _folders(folders: dict[str, list[str]], root: Path) -> str:
    """Names artifacts by their number under the root, like the folders on disk."""
    names = []
    for name, uris in folders.items():
        for uri in uris:
            is_below = Path(uri).is_relative_to(root / "artifacts")
            names.append(
                str(Path(uri).relative_to(root / "artifacts")) if is_below else f"{name}: {uri}"
            )
    return "\n".join(names)
