"""Defines `vaeline compile` and `submit`: the pipeline on Kubeflow and Vertex."""

import os
from pathlib import Path
from typing import Any

import click

from pipeline.cli.command import common, config_option, set_option


@click.command(name="compile")
@config_option
@set_option
@click.option("--output", type=click.Path(path_type=Path), required=True,
              help="File: .json for Vertex, .yaml for Kubeflow.")  # fmt: skip
@common
def compile_(terminal: Any, config_path: str, overrides: tuple[str, ...], output: Path) -> int:
    """Write the pipeline's specification for Kubeflow or Vertex (IR 2.1)."""
    from pipeline.config import ConfigError, load_config

    if output.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"{output}: expected a name that ends in .json or .yaml")
    job = compile_checked(terminal, load_config(config_path, overrides=overrides))
    from pipeline.orchestration.compiler import to_text

    text = to_text(job, as_yaml=output.suffix != ".json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    steps = len(job["pipelineSpec"]["deploymentSpec"]["executors"])
    terminal.say(f"{output}: {steps} steps, {len(text) / 1024:,.0f} kB")
    terminal.result({"output": str(output), "steps": steps, "bytes": len(text)})
    return 0


@click.command()
@config_option
@set_option
@click.option("--force", is_flag=True, help="Train even without a reason.")
@common
def submit(terminal: Any, config_path: str, overrides: tuple[str, ...], force: bool) -> int:
    """Start one run on the cluster of the configuration; it ends at once without a reason."""
    from pipeline.config import load_config
    from pipeline.orchestration.platforms import connect

    config = load_config(config_path, overrides=overrides)
    platform = connect(config)
    name = platform.submit(compile_checked(terminal, config), force=force)
    terminal.say(f"submitted: {name}")
    terminal.result({"run": name})
    return 0


def compile_checked(terminal: Any, config: Any) -> dict[str, Any]:
    """Compiles a pipeline and validates the specification.

    Args:
        terminal: Where a warning is shown if the image is named by a tag.
        config: The configuration, a `PipelineConfig`.

    Returns:
        The specification (IR 2.1) as plain values.

    Raises:
        ConfigError: The pipeline cannot run on the platform, or a secret is part of it.
    """
    from pipeline.config import to_yaml
    from pipeline.console import captured_output
    from pipeline.orchestration.reach import require_reach
    from pipeline.orchestration.secrets import refuse_secrets
    from pipeline.step_digests import step_digests
    from trainer.quick_imports import quick_imports

    refuse_secrets(to_yaml(config), os.environ, what="the configuration")
    cluster = require_reach(config)
    if not cluster.names_digest:
        terminal.say(
            f"cluster.image: {cluster.image} is a tag, which may move; name it by its digest",
            style="yellow",
        )
    # TFX's imports print warnings.
    with captured_output(Path(os.devnull)):
        with quick_imports():
            from pipeline.orchestration.compiler import compile_pipeline, to_text, validate

        job = compile_pipeline(config, code_digest=step_digests())
        validate(job)
    refuse_secrets(to_text(job, as_yaml=False), os.environ, what="the specification")
    return job
