"""Defines `vaeline demo`, `run` and `retrain`: the pipeline on this machine."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.command import (
    EXIT_NOT_BLESSED,
    common,
    config_option,
    root_folder_type,
    root_type,
    runs_root_option,
    set_option,
)


@click.command()
@click.option("--root", type=root_folder_type, default=Path("runs/demo"),
              show_default=True, help="Folder for all that the demonstration writes.")  # fmt: skip
@common
def demo(terminal: Any, root: Path) -> int:
    """Run the main job on scikit-learn's handwritten digits, from archive to labelled archive."""
    from pipeline.demo import run_demo

    return run_demo(terminal, root=root)


@click.command()
@config_option
@click.option("--root", type=root_type, required=True,
              help="Folder or bucket for artifacts, metadata, logs and models.")  # fmt: skip
@set_option
@common
def run(terminal: Any, config_path: str, root: str, overrides: tuple[str, ...]) -> int:
    """Run the pipeline: ingest, check, train, evaluate, push.

    Steps whose inputs did not change are taken from the cache. Exit codes: 0 the model was
    pushed, 3 it was refused by the gate, 1 a step failed.
    """
    from pipeline.config import load_config
    from pipeline.jobs import show_result, train_and_push
    from pipeline.working_root import working_root

    config = load_config(config_path, overrides=overrides, root=root)
    with working_root(root, "a pipeline run", say=terminal.say) as place:
        result = train_and_push(terminal, config, root=place.folder, publish=place.publish)
    show_result(terminal, result)
    terminal.result(result.as_dict())
    return 0 if result.blessed else EXIT_NOT_BLESSED


@click.command()
@config_option
@runs_root_option
@set_option
@click.option("--force", is_flag=True, help="Train even without a reason.")
@common
def retrain(
    terminal: Any, config_path: str, root: str, overrides: tuple[str, ...], force: bool
) -> int:
    """Train again if there is a reason: new spans, drift, age; else end at once and say why.

    Made for cron: the same images are never trained on twice, and an interrupted run resumes.
    Exit codes: 0 a model was pushed or there was nothing to do, 3 the model was refused by the
    gate, 6 another run is at work on this root, 75 preempted, 1 a step failed.
    """
    from pipeline.config import load_config
    from pipeline.orchestration.retrain import retrain as start
    from pipeline.working_root import working_root

    config = load_config(config_path, overrides=overrides, root=root)
    with working_root(root, "a pipeline run", say=terminal.say) as place:
        result = start(terminal, config, root=place.folder, force=force, publish=place.publish)
    terminal.result(result.as_dict())
    return EXIT_NOT_BLESSED if result.training and not result.training.blessed else 0
