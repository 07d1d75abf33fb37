"""Defines `vaeline report` and `sample`: pages and pictures of earlier results."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.command import common, logs_option


@click.command()
@click.argument("folder")
@click.option("--output", default="", help="The page, if not report.html in FOLDER.")
@logs_option
@common
def report(terminal: Any, folder: str, output: str, logs: Path) -> int:
    """Write report.html again: of a run's root, or of the output of classify.

    The page is one file without any reference to another; it can be mailed and opened offline.
    """
    from pipeline.console import logged
    from pipeline.log_files import new_log_path

    with logged(terminal, new_log_path(logs)), terminal.live("writing the report"):
        from pipeline.report.archive_report import is_archive_output, write_archive_report

        if is_archive_output(folder):
            page = write_archive_report(folder, output)
        else:
            from pipeline.report.reported_run import read_reported
            from pipeline.working_root import fetched_root

            run = read_reported(fetched_root(folder))
            # This import loads TensorFlow, so a wrong folder is reported before it.
            from pipeline.report.run_report import write_run_report

            page = write_run_report(run, output)
    terminal.say(f"report: {page}")
    terminal.result({"report": page})
    return 0


@click.command()
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
@logs_option
@common
def sample(terminal: Any, model: str, output: Path, count: int, seed: int, logs: Path) -> int:
    """Write a grid of images that MODEL's decoder makes from samples of its prior."""
    from pipeline.console import logged
    from pipeline.log_files import new_log_path

    with logged(terminal, new_log_path(logs)), terminal.live("loading the model"):
        from components.bulk_inference.model_card import read_card
        from pipeline.report.generation import find_generator, write_grid
        from pipeline.report.page import MissingPartError
        from serving.loading import load_saved_model
        from trainer.errors import InputError

        card = read_card(model)
        loaded = load_saved_model(card.path)
        try:
            drawn = write_grid(output, find_generator(loaded, card), count=count, seed=seed)
        except MissingPartError as missing:
            raise InputError(f"{card.path}: {missing}") from missing
    terminal.say(f"{drawn['images']:,} images: {output}")
    terminal.result({"output": str(output), **drawn})
    return 0
