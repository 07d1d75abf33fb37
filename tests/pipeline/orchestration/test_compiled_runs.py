"""The compiled specification runs: every step's container command, in order, to a pushed model."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.pipeline.orchestration.cluster import Cluster, run_in_a_fork

PROJECT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def test_the_specification_runs_to_a_pushed_model_and_then_rests(tmp_path: Path) -> None:
    from pipeline.config import load_config
    from pipeline.digits import write_digits
    from pipeline.orchestration.compiler import compile_pipeline, to_text, validate

    days = tmp_path / "days"
    days.mkdir()
    with (
        zipfile.ZipFile(write_digits(tmp_path / "archives").labelled) as digits,
        zipfile.ZipFile(days / "2026-11-20.zip", "w") as day,
    ):
        for name in digits.namelist()[::3]:
            day.writestr(name, digits.read(name))
    image = "registry.example/vaeline@sha256:" + "0" * 64
    config = load_config(
        "digits",
        root=tmp_path,
        overrides=[
            f"input.paths={days}/{{YYYY}}-{{MM}}-{{DD}}.zip",
            "trainer.epochs=9",
            "trainer.warm_start=true",
            "trainer.evaluate_every_epochs=9",
            "evaluation.min_accuracy=0.5",
            "evaluation.min_class_recall=null",
            # It has tests of its own, and its fresh process imports TensorFlow anew.
            "serving_check.enabled=false",
            f"cluster={{platform: kubeflow, image: '{image}', pipeline_root: 'gs://store/root'}}",
            "cluster.steps.retries.count=1",
            "cluster.trainer.retries.count=1",
        ],
    )
    compiled = compile_pipeline(config, code_digest="c0de")
    validate(compiled)
    job = json.loads(to_text(compiled, as_yaml=False))

    cluster = Cluster(tmp_path / "store", LostAtTheEnd(run_in_a_fork))
    outputs = cluster.run(job, "monday")
    assert cluster.skipped == []
    assert {name for name, count in cluster.attempts.items() if count == 2} == (
        set(cluster.ran) - SPARED
    )
    assert cluster.ran[0] == "InputState"
    assert cluster.ran[-1] == "RunRecord"
    expected = {"ImageExampleGen", "base-model", "Trainer", "baseline-model", "Evaluator", "Pusher"}
    assert expected < set(cluster.ran)
    assert outputs["InputState"]["parameters"]["span"] == 20777
    assert outputs["ImageExampleGen"]["artifacts"]["examples"]["metadata"]["span"] == 20777
    (version,) = (p for p in (tmp_path / "pushed").iterdir() if p.name.isdigit())
    assert (version / "saved_model.pb").is_file()
    card = json.loads((version / "assets.extra" / "model.json").read_text())
    assert "base" not in card, "nothing was pushed before that it could have started from"
    record = json.loads((tmp_path / "store" / "retraining" / "digits.json").read_text())
    assert record["attempts"][0]["blessed"] is True

    # Without the shared imports: the command as it stands in the specification.
    tuesday = Cluster(tmp_path / "store", as_it_stands)
    outputs = tuesday.run(job, "tuesday")
    assert tuesday.ran == ["InputState"]
    assert tuesday.skipped == ["retrain"]
    assert "trained on these images" in outputs["InputState"]["parameters"]["explanation"]


SPARED = {"Trainer", "Evaluator", "ServingCheck"}
"""Steps that no test loses: they take long and write their outputs at their end."""


@dataclass
class LostAtTheEnd:
    """Executes commands whose first attempt is lost when its work is done, outputs and all.

    Those of `SPARED` are not lost.
    """

    execute: Callable[[list[str], Path], int]
    lost: set[Path] = field(default_factory=set)

    def __call__(self, command: list[str], log: Path) -> int:
        code = self.execute(command, log)
        if log in self.lost or log.parent.name.removesuffix("_1") in SPARED:
            return code
        self.lost.add(log)
        return 1


def as_it_stands(command: list[str], log: Path) -> int:
    with log.open("wb") as file:
        done = subprocess.run(
            command, cwd=PROJECT, stdout=file, stderr=file, check=False,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
    return done.returncode
