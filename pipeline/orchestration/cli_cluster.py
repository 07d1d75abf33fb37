"""`vaeline compile`, `submit` and `schedule`: the pipeline on Kubeflow and Vertex, or by cron."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.command import CONFIG_HELP, SET_HELP, common


def _configured(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--config` and `--set`."""
    command = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)(
        command
    )
    return click.option("--config", "config_path", required=True, help=CONFIG_HELP)(command)


@click.command(name="compile")
@_configured
@click.option("--output", type=click.Path(path_type=Path), required=True,
              help="File: .json for Vertex, .yaml for Kubeflow.")  # fmt: skip
@common
def compile_(terminal: Any, config_path: str, overrides: tuple[str, ...], output: Path) -> int:
    """Write the pipeline's specification for Kubeflow or Vertex (IR 2.1)."""
    from pipeline.config import ConfigError, load_config

    if output.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"{output}: expected a name that ends in .json or .yaml")
    job = _compiled(terminal, load_config(config_path, overrides=overrides))
    from pipeline.orchestration.compiler import to_text

    text = to_text(job, as_yaml=output.suffix != ".json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    steps = len(job["pipelineSpec"]["deploymentSpec"]["executors"])
    terminal.say(f"{output}: {steps} steps, {len(text) / 1024:,.0f} kB")
    terminal.result({"output": str(output), "steps": steps, "bytes": len(text)})
    return 0


@click.command()
@_configured
@click.option("--force", is_flag=True, help="Train whatever is known.")
@common
def submit(terminal: Any, config_path: str, overrides: tuple[str, ...], force: bool) -> int:
    """Start one run on the cluster of the configuration; it ends at once without a reason."""
    from pipeline.config import load_config
    from pipeline.orchestration.platforms import connect

    config = load_config(config_path, overrides=overrides)
    platform = connect(config)
    name = platform.submit(_compiled(terminal, config), force=force)
    terminal.say(f"submitted: {name}")
    terminal.result({"run": name})
    return 0


@click.group()
def schedule() -> None:
    """Start runs by the `schedule` section: on the cluster, or on this machine by cron."""


@schedule.command()
@_configured
@common
def create(terminal: Any, config_path: str, overrides: tuple[str, ...]) -> int:
    """Make the schedule on the cluster: one run at a time, none made up for."""
    from pipeline.config import ConfigError, load_config
    from pipeline.orchestration.platforms import connect

    config = load_config(config_path, overrides=overrides)
    platform = connect(config)
    for found in platform.list_schedules(config.name):
        if found.state != "ended":
            raise ConfigError(
                f"{config.name} has a schedule already: {found.id} ({found.cron}); delete it first"
            )
    made = platform.create_schedule(_compiled(terminal, config), config.schedule)
    terminal.say(f"scheduled: {made.id}")
    for start in _next_starts(config):
        terminal.say(f"  {start}")
    terminal.result(made.as_dict())
    return 0


@schedule.command("list")
@_configured
@common
def list_schedules(terminal: Any, config_path: str, overrides: tuple[str, ...]) -> int:
    """List the pipeline's schedules on the cluster."""
    from pipeline.config import load_config
    from pipeline.orchestration.platforms import connect

    config = load_config(config_path, overrides=overrides)
    found = connect(config).list_schedules(config.name)
    terminal.table(
        f"schedules of {config.name}",
        [(item.id, item.cron, item.state, item.next_run) for item in found],
        header=("id", "cron", "state", "next run"),
    )
    terminal.result({"schedules": [item.as_dict() for item in found]})
    return 0


def _changing(verb: str, done: str, change: Callable[[Any, str], None], text: str) -> None:
    """Adds a command that changes one schedule."""

    @schedule.command(verb, help=text)
    @click.argument("schedule_id")
    @_configured
    @common
    def command(
        terminal: Any, schedule_id: str, config_path: str, overrides: tuple[str, ...]
    ) -> int:
        from pipeline.config import load_config
        from pipeline.orchestration.platforms import connect

        change(connect(load_config(config_path, overrides=overrides)), schedule_id)
        terminal.say(f"{done}: {schedule_id}")
        terminal.result({"id": schedule_id, "state": done})
        return 0


_changing("pause", "paused", lambda platform, name: platform.set_active(name, active=False),
          "Start no more runs until `resume`; a run at work goes on.")  # fmt: skip
_changing("resume", "active", lambda platform, name: platform.set_active(name, active=True),
          "Start runs again, without those that were missed.")  # fmt: skip
_changing("delete", "deleted", lambda platform, name: platform.delete_schedule(name),
          "Remove a schedule; its runs stay.")  # fmt: skip


@schedule.command()
@_configured
@click.option("--root", type=click.Path(path_type=Path), required=True,
              help="Folder of the runs.")  # fmt: skip
@click.option("--systemd", is_flag=True, help="A service and a timer in place of a crontab line.")
@common
def local(
    terminal: Any, config_path: str, overrides: tuple[str, ...], root: Path, systemd: bool
) -> int:
    """Print what starts `vaeline retrain` on this machine; nothing is installed."""
    import shutil
    import sys

    from pipeline.config import find_config, load_config
    from pipeline.orchestration.timers import crontab, systemd_units

    config = load_config(config_path, overrides=overrides, root=root)
    executable = shutil.which("vaeline")
    command = [executable] if executable else [sys.executable, "-m", "pipeline.cli"]
    command += ["retrain", "--config", str(find_config(config_path).resolve())]
    command += ["--root", str(root.resolve())]
    for override in overrides:
        command += ["--set", override]
    if systemd:
        units = systemd_units(config.schedule, command, config.name)
    else:
        units = {"crontab": crontab(config.schedule, command, root.resolve())}
    for name, text in units.items():
        terminal.say(f"# {name}", style="bold")
        terminal.say(text)
    terminal.result({"units": units, "next": _next_starts(config)})
    return 0


def _compiled(terminal: Any, config: Any) -> dict[str, Any]:
    """Compiles, holds it against the proto, and looks for secrets."""
    import os

    from pipeline.config import to_yaml
    from pipeline.console import captured_output
    from pipeline.orchestration.secrets import refuse_secrets
    from pipeline.step_digests import step_digests

    refuse_secrets(to_yaml(config), os.environ, what="the configuration")
    cluster = config.cluster
    if cluster is not None and not cluster.names_digest:
        terminal.say(
            f"cluster.image: {cluster.image} is a tag, which may move; name it by its digest",
            style="yellow",
        )
    # TFX's imports print their warnings.
    with captured_output(Path(os.devnull)):
        from pipeline.orchestration.compiler import compile_pipeline, to_text, validate

        job = compile_pipeline(config, code_digest=step_digests())
        validate(job)
    refuse_secrets(to_text(job, as_yaml=False), os.environ, what="the specification")
    return job


def _next_starts(config: Any) -> list[str]:
    import datetime

    from pipeline.orchestration.timers import next_starts

    now = datetime.datetime.now(datetime.UTC)
    return [time.isoformat() for time in next_starts(config.schedule, 3, now=now)]
