"""A pipeline whose steps only call functions of a test; also a command that runs it.

`prepare -> (check beside measure -> judge) -> publish`. In the command `check` runs ServingCheck's
process, which hangs.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import click

from components.serving_check import check
from components.serving_check.config import ServingCheckConfig
from components.tfx_api import tfx
from pipeline.cli.command import common
from pipeline.dag_runner import DagRunner
from pipeline.local_runner import metadata_connection
from tests.limits import HANG_SECS
from tests.pipeline import hanging_probe

NAMES = ("prepare", "check", "measure", "judge", "publish")

_actions: dict[str, Callable[[], None]] = {}


@tfx.dsl.components.component
def fake_step(
    result: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Model],
    action: tfx.dsl.components.Parameter[str],
) -> None:
    """Calls an action."""
    result.set_string_custom_property("action", action)
    _actions[action]()


def run_steps(
    root: Path,
    actions: Mapping[str, Callable[[], None]],
    *,
    aside: Mapping[str, Callable[[], None]],
    on_step: Callable[[str, float | None], None] = lambda name, seconds: None,
    at_work: Mapping[str, Callable[[], None]] | None = None,
) -> None:
    """Runs the pipeline; steps without an action do nothing."""
    _actions.clear()
    _actions.update({name: actions.get(name, lambda: None) for name in NAMES})
    steps: dict[str, Any] = {name: fake_step(action=name).with_id(name) for name in NAMES}
    for name, after in (
        ("check", "prepare"),
        ("measure", "prepare"),
        ("judge", "measure"),
        ("publish", "judge"),
        ("publish", "check"),
    ):
        steps[name].add_upstream_node(steps[after])
    pipeline = tfx.dsl.Pipeline(
        pipeline_name="fake",
        pipeline_root=str(root / "artifacts"),
        components=list(steps.values()),
        enable_cache=True,
        metadata_connection_config=metadata_connection(root),
    )
    DagRunner(on_step=on_step, aside=aside, at_work=at_work).run(pipeline)


def check_fake_model(root: Path) -> None:
    """Runs ServingCheck with `hanging_probe` as its process."""
    with mock.patch.object(check, "_PROBE", hanging_probe.__name__):
        report = check.check_model(str(root), ServingCheckConfig(timeout_secs=HANG_SECS))
    assert report.refusals == ["fake: refused"]


def _until_stopped(root: Path) -> None:
    while not hanging_probe.pid_file(root).exists():
        time.sleep(0.01)
    print("at work", flush=True)
    time.sleep(HANG_SECS)


@click.command()
@click.argument("root", type=Path)
@click.argument("waiting")
@common
def main(terminal: Any, root: Path, waiting: str) -> None:
    """Runs the pipeline, of which one step waits; without such a step it waits for `check`."""

    def report(name: str, seconds: float | None) -> None:
        if name == waiting and seconds is not None:
            print("at work", flush=True)

    del terminal
    actions: dict[str, Callable[[], None]] = {"check": lambda: check_fake_model(root)}
    if waiting == "measure":
        actions["measure"] = lambda: _until_stopped(root)
    run_steps(root, actions, aside={"check": check.STOP_CHECKS.set}, on_step=report)
