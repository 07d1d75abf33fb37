"""`vaeline report` and `vaeline sample`, as the command line runs them."""

from pathlib import Path
from typing import Any

from pipeline.console import Terminal, logged, new_log_path
from pipeline.report.page import MissingPartError


def make_report(terminal: Terminal, folder: str, *, logs: Path) -> str:
    """Writes the report of a run's root or of a bulk job's output again.

    Args:
        terminal: Where it is shown.
        folder: One of both; which one is told by what lies in it.
        logs: The log file goes into `logs/` in this folder.

    Returns:
        The page.

    Raises:
        ReportError: it is neither.
    """
    with logged(terminal, new_log_path(logs)), terminal.live("writing the report"):
        from pipeline.report.archive_report import is_archive_output, write_archive_report

        if is_archive_output(folder):
            page = write_archive_report(folder)
        else:
            from pipeline.report.run_artifacts import read_latest

            run = read_latest(Path(folder))
            # TensorFlow comes with it; a wrong folder is told before.
            from pipeline.report.run_report import write_run_report

            page = str(write_run_report(run))
    terminal.say(f"report: {page}")
    return page


def draw_samples(
    terminal: Terminal, model: str, *, output: Path, count: int, seed: int, logs: Path
) -> dict[str, Any]:
    """Writes a grid of generated images.

    Args:
        terminal: Where it is shown.
        model: Folder of a model, or of pushed versions.
        output: The PNG.
        count: Images; of each class where the decoder takes one.
        seed: Of the latents.
        logs: The log file goes into `logs/` in this folder.

    Returns:
        The file, and how many images are in it.

    Raises:
        ValueError: the model makes no images.
    """
    with logged(terminal, new_log_path(logs)), terminal.live("loading the model"):
        from components.bulk_inference.model_card import read_card
        from pipeline.report.generation import find_generator, write_grid

        card = read_card(model)
        import tensorflow as tf

        loaded = tf.saved_model.load(card.path)
        try:
            drawn = write_grid(output, find_generator(loaded, card), count=count, seed=seed)
        except MissingPartError as missing:
            raise ValueError(f"{card.path}: {missing}") from missing
    terminal.say(f"{drawn['images']:,} images: {output}")
    return {"output": str(output), **drawn}
