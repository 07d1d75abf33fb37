"""The `vaeline` command: flags in, one call out.

TensorFlow, Beam and TFX are imported by the commands that need them, so that `--help` answers at
once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.command import CONFIG_HELP as _CONFIG_HELP
from pipeline.command import EXIT_DRIFTED, EXIT_NOT_BLESSED
from pipeline.command import SET_HELP as _SET_HELP
from pipeline.command import common as _common
from pipeline.orchestration.cli_cluster import compile_, schedule, submit
from pipeline.orchestration.cli_runs import gc, retrain, runs


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="vaeline")
def main() -> None:
    """Archives of images in; a served classifier and labelled archives out.

    Start with `vaeline demo`, then write a configuration for your own images
    (docs/configuration.md) and `vaeline run --config FILE --root DIR`.
    """


@main.command()
@click.option("--root", type=click.Path(path_type=Path), default=Path("runs/demo"),
              show_default=True, help="Folder for all that the demonstration writes.")  # fmt: skip
@_common
def demo(terminal: Any, root: Path) -> int:
    """Run the main job on scikit-learn's handwritten digits, from archive to labelled archive."""
    from pipeline.demo import run_demo

    return run_demo(terminal, root=root)


@main.command()
@click.option("--config", "config_path", required=True, help=_CONFIG_HELP)
@click.option("--root", type=click.Path(path_type=Path), required=True,
              help="Folder for artifacts, metadata, logs and pushed models.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=_SET_HELP)
@_common
def run(terminal: Any, config_path: str, root: Path, overrides: tuple[str, ...]) -> int:
    """Run the pipeline: ingest, check, train, evaluate, push.

    Steps whose inputs did not change are taken from the cache. Exit codes: 0 the model was
    pushed, 3 it was refused by the gate, 1 a step failed.
    """
    from pipeline.config import load_config
    from pipeline.jobs import train_and_push

    config = load_config(config_path, overrides=overrides, root=root)
    outcome = train_and_push(terminal, config, root=root)
    terminal.result(outcome.as_dict())
    return 0 if outcome.blessed else EXIT_NOT_BLESSED


def _bulk_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what `classify` and `embed` have in common."""
    options = [
        click.argument("archives", nargs=-1, required=True),
        click.option("--model", required=True,
                     help="Folder of a model, or of pushed versions; the newest is taken."),
        click.option("--output", required=True, help="Folder for the table; made when missing."),
        click.option("--format", "output_format", default="parquet", show_default=True,
                     type=click.Choice(["parquet", "jsonl", "csv", "tfrecord", "npy"]),
                     help="npy: embeddings as .npy shards with a key index."),
        click.option("--workers", type=int, default=0, help="Cores to use; 0: all."),
        click.option("--overwrite", is_flag=True, help="Start afresh whatever is there."),
        click.option("--dry-run", is_flag=True,
                     help="Only estimate rows, time, memory and size, from a sample."),
        click.option("--fail-on-drift", is_flag=True,
                     help="Exit with 4 when the archive differs from the training data."),
        click.option("--logs", type=click.Path(path_type=Path), default=Path("."),
                     show_default=True, help="The log goes into logs/ in this folder."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                     help="Override one value of the bulk configuration."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_bulk_options
@_common
def classify(terminal: Any, **arguments: Any) -> int:
    """Label every image of ARCHIVES: folders, zip and tar files, and more.

    Writes a table with a row for every image: label, probability, embedding, outlier score; a
    table of rejects with reasons; and a manifest with the counts. A job that was stopped goes on
    where it was; a finished one reads nothing again.
    """
    return _run_bulk(terminal, embed_only=False, **arguments)


@main.command()
@_bulk_options
@_common
def embed(terminal: Any, **arguments: Any) -> int:
    """Write the embedding of every image of ARCHIVES, with its key and verdict."""
    return _run_bulk(terminal, embed_only=True, **arguments)


def _run_bulk(
    terminal: Any,
    *,
    archives: tuple[str, ...],
    model: str,
    output: str,
    output_format: str,
    workers: int,
    overwrite: bool,
    dry_run: bool,
    fail_on_drift: bool,
    logs: Path,
    overrides: tuple[str, ...],
    embed_only: bool,
) -> int:
    from pipeline.config import parse_bulk
    from pipeline.jobs import classify_archives

    config = parse_bulk(
        {
            "input": {"paths": list(archives)},
            "model": model,
            "output": output,
            "format": output_format,
            "engine": {"workers": workers},
            "overwrite": overwrite,
            "dry_run": dry_run,
            "drift": {"fail": fail_on_drift},
        },
        overrides=overrides,
        embed_only=embed_only,
    )
    result = classify_archives(terminal, config, logs=logs)
    terminal.result(result)
    has_drifted = bool((result["drift"] or {}).get("alarm"))
    return EXIT_DRIFTED if config.drift.fail and has_drifted else 0


@main.command()
@_common
def doctor(terminal: Any) -> int:
    """Show versions, devices and engines, and what is missing for what."""
    from pipeline.console import captured_output
    from pipeline.doctor import as_dict, examine, is_healthy

    with captured_output(Path("/dev/null")):
        findings = examine()
    terminal.table(
        "vaeline doctor",
        [
            ("ok" if finding.found else ("MISSING" if finding.required else "-"), finding.name,
             finding.found or finding.remedy, finding.purpose)
            for finding in findings
        ],
        header=("", "what", "found, or how to get it", "for"),
    )  # fmt: skip
    healthy = is_healthy(findings)
    terminal.result({"healthy": healthy, "findings": as_dict(findings)})
    return 0 if healthy else 1


for _command in (retrain, runs, gc, compile_, submit, schedule):
    main.add_command(_command)

if __name__ == "__main__":
    main()
