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
    from pipeline.jobs import show_result, train_and_push

    config = load_config(config_path, overrides=overrides, root=root)
    outcome = train_and_push(terminal, config, root=root)
    show_result(terminal, outcome)
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
        click.option("--no-report", is_flag=True, help="Write no report.html."),
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
    no_report: bool,
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
            "report": not no_report,
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
@click.argument("folder")
@click.option("--logs", type=click.Path(path_type=Path), default=Path("."),
              show_default=True, help="The log goes into logs/ in this folder.")  # fmt: skip
@_common
def report(terminal: Any, folder: str, logs: Path) -> int:
    """Write report.html again: of a run's root, or of the output of classify.

    The page is one file without any reference to another; it can be mailed and opened offline.
    """
    from pipeline.report.commands import make_report

    terminal.result({"report": make_report(terminal, folder, logs=logs)})
    return 0


@main.command()
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The PNG.")
@click.option(
    "--count",
    type=click.IntRange(1, 400),
    default=64,
    show_default=True,
    help="Images; of each class where the decoder takes one, at most 20.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the latents.")
@click.option("--logs", type=click.Path(path_type=Path), default=Path("."),
              show_default=True, help="The log goes into logs/ in this folder.")  # fmt: skip
@_common
def sample(terminal: Any, model: str, output: Path, count: int, seed: int, logs: Path) -> int:
    """Write a grid of images that MODEL's decoder makes from samples of its prior."""
    from pipeline.report.commands import draw_samples

    terminal.result(draw_samples(terminal, model, output=output, count=count, seed=seed, logs=logs))
    return 0


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", help="Folder of a model, or of pushed versions; the newest is taken.")
@click.option("--server", metavar="URL", help="grpc://host:8500 or http://host:8501.")
@click.option("--name", default="vaeline", show_default=True, help="The model's name there.")
@click.option("--version", type=int, help="Its version there; by default the newest.")
@_common
def predict(
    terminal: Any,
    images: tuple[Path, ...],
    model: str | None,
    server: str | None,
    name: str,
    version: int | None,
) -> int:
    """Classify single image files, with a pushed model or a model server.

    Exit codes: 0 every image was answered, 1 one could not be, or nothing answers.
    """
    from pipeline.predict import predict_images

    result = predict_images(
        terminal, images, model=model, server=server, name=name, version=version
    )
    terminal.result(result)
    return 1 if result["failed"] else 0


@main.group()
def models() -> None:
    """List, roll back and prune pushed models; see docs/serving.md.

    DIRECTORY is what models are pushed to (push.directory): a folder or gs://bucket/prefix.
    """


@models.command("list")
@click.argument("directory")
@_common
def list_models(terminal: Any, directory: str) -> int:
    """Show the versions: which is served, who pushed it, from which data, how good."""
    from pipeline.models import list_versions

    terminal.result(list_versions(terminal, directory))
    return 0


@models.command()
@click.argument("directory")
@click.option("--to", type=int, metavar="VERSION",
              help="Go back to this one; by default to the model served before.")  # fmt: skip
@click.option("--user", default="", help="Who is recorded; by default the account's name.")
@_common
def rollback(terminal: Any, directory: str, to: int | None, user: str) -> int:
    """Serve an earlier model again, as a new version with its files."""
    from pipeline.models import roll_back_version

    terminal.result(roll_back_version(terminal, directory, to=to, user=user))
    return 0


@models.command()
@click.argument("directory")
@click.option("--keep", type=int, required=True, help="How many of the newest versions stay.")
@click.option("--yes", is_flag=True, help="Do it; without this nothing is removed.")
@_common
def prune(terminal: Any, directory: str, keep: int, yes: bool) -> int:
    """Remove old versions, never the served one."""
    from pipeline.models import prune_versions

    terminal.result(prune_versions(terminal, directory, keep=keep, remove=yes))
    return 0


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
