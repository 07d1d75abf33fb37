"""Defines `vaeline classify` and `embed`: the bulk job over archives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.command import EXIT_DRIFTED, common, logs_option

if TYPE_CHECKING:
    # For types only, because the module imports pydantic, which is slow.
    from components.bulk_inference.config import BulkConfig


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """The options of `classify` and `embed`; the fields have the names that click passes.

    Attributes:
        archives: Paths of the input.
        model: Folder of a model, or of pushed versions.
        output: Folder for the table.
        output_format: Format of the table.
        runner: Name of the Beam runner.
        master: Address of the runner's cluster; empty for none.
        region: Region of Dataflow; empty for none.
        workers: Number of cores of each machine to use; 0 for all.
        overwrite: Whether to start over, whatever the output folder contains.
        dry_run: Whether only to estimate.
        fast: Whether to leave out the columns that need the decoder.
        no_report: Whether to skip report.html.
        fail_on_drift: Whether drift changes the exit code.
        logs: Folder whose `logs/` subfolder receives the log file.
        overrides: `key.path=value` each, relative to the section `bulk`.
    """

    archives: tuple[str, ...]
    model: str
    output: str
    output_format: str
    runner: str
    master: str
    region: str
    workers: int
    overwrite: bool
    dry_run: bool
    fast: bool
    no_report: bool
    fail_on_drift: bool
    logs: Path
    overrides: tuple[str, ...]

    def to_config(self, *, embed_only: bool) -> "BulkConfig":
        """Returns the validated section `bulk`.

        Raises:
            ConfigError: A value is wrong; the message has a line for each.
        """
        from pipeline.config import parse_bulk

        return parse_bulk(
            {
                "input": {"paths": list(self.archives)},
                "model": self.model,
                "output": self.output,
                "format": self.output_format,
                "engine": {
                    "runner": self.runner,
                    "master": self.master,
                    "region": self.region,
                    "workers": self.workers,
                },
                "overwrite": self.overwrite,
                "dry_run": self.dry_run,
                "report": not self.no_report,
                "drift": {"fail": self.fail_on_drift},
            },
            overrides=self.overrides,
            embed_only=embed_only,
            fast=self.fast,
        )


def _bulk_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the fields of `BulkOptions` as arguments and options."""
    options = [
        click.argument("archives", nargs=-1, required=True),
        click.option("--model", required=True,
                     help="A model, or pushed versions: the newest is taken, or DIR@ALIAS."),
        click.option("--output", required=True, help="Folder for the table; made when missing."),
        click.option("--format", "output_format", default="parquet", show_default=True,
                     type=click.Choice(["parquet", "jsonl", "csv", "tfrecord", "npy"]),
                     help="npy: embeddings as .npy shards with a key index."),
        click.option("--runner", default="local", show_default=True,
                     type=click.Choice(["local", "prism", "dask", "flink", "spark", "dataflow"]),
                     help="Where the job runs; docs/bulk.md has an example of each."),
        click.option("--master", default="", metavar="ADDRESS",
                     help="host:port of Dask's scheduler, a running Prism, or Flink's or Spark's"
                     " master."),
        click.option("--region", default="", help="Region of Dataflow."),
        click.option("--workers", type=int, default=0,
                     help="Cores to use on each machine; 0: all."),
        click.option("--overwrite", is_flag=True, help="Remove an existing table and start over."),
        click.option("--dry-run", is_flag=True,
                     help="Only estimate rows, time, memory and size, from a sample."),
        click.option("--fast", is_flag=True,
                     help="Leave out outlier score, verdict and ELBO: the decoder does not run."),
        click.option("--no-report", is_flag=True, help="Write no report.html."),
        click.option("--fail-on-drift", is_flag=True,
                     help="Exit with 4 when the archive differs from the training data."),
        logs_option,
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                     help="Override one value of the bulk configuration."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_bulk_options
@common
def classify(terminal: Any, **options: Any) -> int:
    """Label every image of ARCHIVES: folders, zip and tar files, and more.

    Writes a table with a row for every image: label, probability, embedding, outlier score; a
    table of rejects with reasons; and a manifest with the counts. An interrupted job resumes
    where it stopped; a finished one reads nothing again.
    """
    return _run_bulk(terminal, BulkOptions(**options), embed_only=False)


@click.command()
@_bulk_options
@common
def embed(terminal: Any, **options: Any) -> int:
    """Write the embedding of every image of ARCHIVES, with its key and verdict."""
    return _run_bulk(terminal, BulkOptions(**options), embed_only=True)


def _run_bulk(terminal: Any, options: BulkOptions, *, embed_only: bool) -> int:
    from pipeline.labelling import classify_archives

    config = options.to_config(embed_only=embed_only)
    result = classify_archives(terminal, config, logs=options.logs)
    terminal.result(result)
    has_drifted = bool((result["drift"] or {}).get("alarm"))
    return EXIT_DRIFTED if config.drift.fail and has_drifted else 0
