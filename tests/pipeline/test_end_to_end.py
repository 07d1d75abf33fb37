"""A whole run on the digits, as a person starts it; what the cache and the gate make of it; and the
days after it, as cron starts them. The tests go on in one folder, so their order matters.
"""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.runs.store import latest_run
from tests import emulators
from tests.forked import ROOT, Forked, vaeline
from tests.limits import HANG_SECS
from tests.pipeline.conftest import PLANTED
from trainer.storage import files

# They only look into the metadata store, at every run.
RESOLVERS = {"base_model", "baseline_model"}
BEFORE_TRAINING = {
    "ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "AnomalyGate", "Transform"
}  # fmt: skip
pytestmark = pytest.mark.e2e


@dataclass
class Run:
    """One finished command."""

    code: int
    result: dict[str, Any]
    text: str


def finished(done: subprocess.CompletedProcess[str]) -> Run:
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    return Run(done.returncode, json.loads(lines[0]), done.stderr)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def first(root: Path) -> Run:
    """The demonstration in a process that imports everything itself, unlike those after it."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "demo", "--root", str(root), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **PLANTED},
        timeout=HANG_SECS,
        check=False,
    )
    return finished(done)


@dataclass
class Commands:
    """Commands on the folder of the demonstration, with secrets in their environment.

    Attributes:
        root: the folder.
        settings: what each of them is given with `--set`.
        bucket: where the root lies, if not in the folder.
        environment: what is added to theirs.
    """

    root: Path
    settings: tuple[str, ...] = ()
    bucket: str = ""
    environment: Mapping[str, str | None] = field(default_factory=dict)

    def start(self, command: str, *settings: str, kill_at: str = "", output: str = "") -> Run:
        """Starts a command, to its end or until it has printed `kill_at`."""
        folder = self.root / "printed"
        folder.mkdir(exist_ok=True)
        printed = folder / f"{len(list(folder.iterdir())) + 1}.txt"
        argv = [command, "--config", "digits", "--json"]
        argv += [part for each in (*self.settings, *settings) for part in ("--set", each)]
        argv += ["--output", output] if output else ["--root", self.bucket or str(self.root)]
        environment = {**PLANTED, **self.environment}
        process = Forked("pipeline.cli", *argv, output=printed, environment=environment)
        if kill_at:
            process.wait_for(kill_at)
            process.send(signal.SIGKILL)
        code = process.wait()
        results = [json.loads(line) for line in process.text.splitlines() if line.startswith("{")]
        return Run(code, results[-1] if results else {}, process.text)

    def states(self) -> dict[str, str]:
        """How the steps of the latest run ended."""
        steps = latest_run(self.root).steps
        return {name: step.state for name, step in steps.items() if name not in RESOLVERS}


@pytest.fixture(scope="module")
def commands(first: Run, root: Path) -> Commands:
    return Commands(root)


def labelling(root: Path) -> list[str]:
    """Settings that make labelling the held-out digits a step of the run."""
    archive = root / "archives" / "held_out.zip"
    return ["bulk.in_pipeline=true", f"bulk.input={{paths: ['{archive}']}}"]


def recomputed(run: Run) -> set[str]:
    return {name for name, step in run.result["steps"].items() if not step["cached"]} - RESOLVERS


def test_the_demonstration_reaches_its_accuracy(first: Run) -> None:
    assert first.code == 0
    assert first.result["held_out_accuracy"] >= 0.97
    assert first.result["pipeline"]["blessed"]
    assert first.result["pipeline"]["metrics"]["accuracy"] >= 0.95


def test_everything_that_was_promised_is_there(first: Run) -> None:
    pipeline = first.result["pipeline"]
    pushed = Path(pipeline["pushed"])
    assert (pushed / "saved_model.pb").is_file()
    card = json.loads((pushed / "assets.extra" / "model.json").read_text())
    assert card["summaries"]["mix"]["format"] == {"png": card["summaries"]["mix"]["images"]}
    assert card["classes"] == list("0123456789")
    assert all(card["digests"][name] for name in ("model", "transform", "calibration", "code"))
    assert "epochs: 40" in (pushed / "assets.extra" / "config.yaml").read_text()
    pictures = {path.name for path in Path(pipeline["pictures"]).iterdir()}
    assert pictures == {"reconstructions.png", "samples.png", "latent_map.png"}
    assert Path(first.result["picture"]).is_file()
    assert Path(pipeline["log"]).stat().st_size > 10_000
    report = Path(pipeline["report"]).read_text("utf-8")
    assert "Blessed" in report
    assert "This part could not be made" not in report
    assert "no pictures over epochs" not in report
    assert "<circle" in report
    archive = Path(first.result["labelling"]["report"]).read_text("utf-8")
    assert "359 members are 359 rows plus 0 rejects plus 0 duplicates" in archive


def test_what_people_see_is_short(first: Run) -> None:
    lines = first.text.splitlines()
    assert len(lines) < 100
    assert not [line for line in lines if "Warning" in line or " I tensorflow" in line]


def test_the_table_has_a_row_for_every_held_out_image(first: Run, root: Path) -> None:
    table = ds.dataset(root / "labelled" / "table", format="parquet").to_table()
    assert table.num_rows == 359
    assert len(set(table["member"].to_pylist())) == 359
    assert {len(vector) for vector in table["embedding"].to_pylist()} == {16}
    assert all(0 < p <= 1 for p in table["probability"].to_pylist())


def test_the_held_out_digits_can_be_reviewed(first: Run, root: Path, tmp_path: Path) -> None:
    """With 72 held-out images nothing is promised; answers are taken all the same."""
    output = str(shutil.copytree(root / "labelled", tmp_path / "labelled"))
    queue = finished(vaeline("review", "create", output, "--most", "5", "--audit", "20", "--json"))
    assert queue.code == 0
    assert "held-out images are too few: even without a wrong label" in queue.text
    listed = queue.result["listed"]
    assert listed["uncertain"] + listed["verdict"] == 5
    assert listed["audit"] == 20
    refused = finished(vaeline("review", "apply", output, "--json"))
    assert refused.code == 1
    assert "no answers; fill in the column `answer`" in refused.text


def test_held_out_digits_are_no_drift(first: Run) -> None:
    drift = first.result["labelling"]["drift"]
    assert not drift["alarm"], drift["tests"]
    for label, share in drift["labels"].items():
        assert abs(drift["prior_shift"][label] - share) < 0.03


def test_a_second_run_is_served_from_the_cache_and_may_label_an_archive(
    first: Run, root: Path, commands: Commands
) -> None:
    second = commands.start("run", *labelling(root))
    assert second.code == 0
    assert recomputed(second) == {"BulkInference"}
    table = ds.dataset(Path(second.result["labelled"]) / "table", format="parquet").to_table()
    assert table.num_rows == 359
    assert second.result["pushed"] == first.result["pipeline"]["pushed"]
    assert second.result["metrics"] == first.result["pipeline"]["metrics"]


def test_a_copy_of_the_root_is_served_from_the_cache_but_for_what_it_lost(
    first: Run, root: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    (verdict,) = (copy / "artifacts" / "ModelGate" / "blessing").iterdir()
    shutil.rmtree(verdict)
    again = Commands(copy).start("run")
    assert again.code == 0, again.text
    assert f"this root was at {root} when it was recorded" in again.text
    assert f"{verdict.relative_to(copy)}: the files are gone" in again.text
    assert recomputed(again) == {"ModelGate", "Pusher"}
    assert again.result["metrics"] == first.result["pipeline"]["metrics"]
    assert Path(again.result["pushed"]).parent == copy / "pushed"
    assert str(root) not in str(latest_run(copy).as_dict())


def test_a_bound_that_is_missed_refuses_the_model(root: Path, commands: Commands) -> None:
    refused = commands.start("run", "evaluation.min_accuracy=1.0", *labelling(root))
    assert refused.code == 3
    assert not refused.result["blessed"]
    assert refused.result["pushed"] == ""
    (reason,) = refused.result["refusals"]
    assert "below evaluation.min_accuracy 1.0000" in reason
    assert recomputed(refused) == {"ModelGate", "Pusher"}
    verdict = json.loads((Path(refused.result["verdict"]) / "verdict.json").read_text())
    assert verdict["refusals"] == refused.result["refusals"]
    assert (
        f"refused because {reason}" in (Path(refused.result["verdict"]) / "verdict.txt").read_text()
    )
    assert "was not blessed, so no image is labelled" in refused.result["not_labelled"]
    assert refused.result["labelled"] == ""
    assert "NOT LABELLED" in refused.text


def test_a_first_model_passes_on_absolute_bounds_and_says_so(first: Run) -> None:
    pipeline = first.result["pipeline"]
    assert pipeline["gate"] == "blessed as the first model, on absolute bounds only"
    assert "blessed as the first model" in first.text
    measured = json.loads((Path(pipeline["verdict"]) / "verdict.json").read_text())
    overall = measured["overall"]
    assert 0 < overall["calibration_error"] < 0.1
    assert overall["bits_per_dimension"] == pytest.approx(-overall["elbo"] / 64 / math.log(2))
    assert overall["importance_bound"] >= overall["importance_elbo"]
    assert overall["importance_images"] == pipeline["test_images"]
    assert overall["outlier_score_q50"] < overall["outlier_score_q95"]
    assert set(measured["slices"]) == {"class", "archive", "size"}
    assert set(measured["slices"]["size"]) == {"1-8 px"}
    for name, found in measured["classes"].items():
        part = measured["slices"]["class"][name]
        assert part["example_count"] == found["images"]
        assert part["accuracy"] == pytest.approx(found["recall"])
    images = sum(cell["images"] for cell in measured["confusion"])
    assert images == overall["example_count"] == pipeline["test_images"]


def test_a_class_with_one_image_stops_the_run_by_name(
    first: Run, root: Path, commands: Commands
) -> None:
    extra = root / "lonely"
    extra.mkdir()
    (extra / "letter").mkdir()
    picture = Path(first.result["picture"])
    (extra / "letter" / "a.png").write_bytes(picture.read_bytes())
    digits = root / "archives" / "digits.zip"
    done = commands.start("run", f"input.paths=['{digits}', '{extra}']")
    assert done.code == 1
    assert "letter" in done.result["error"]
    assert "min_images" in done.result["error"]
    assert "Traceback" not in done.text


CLUSTER = {
    "platform": "kubeflow",
    "image": "registry.example/vaeline@sha256:" + "0" * 64,
    "pipeline_root": "gs://store/root",
    "secrets": [{"name": "store", "key": "key", "variable": variable} for variable in PLANTED],
}
"""It names the secrets that are planted; on this machine nobody asks for it."""


@pytest.fixture(scope="module")
def days(first: Run, root: Path) -> Commands:
    return Commands(root, ("trainer.warm_start=true", f"cluster={json.dumps(CLUSTER)}"))


@pytest.fixture(scope="module")
def changed(first: Run, root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A new day, of a third of the digits, and settings that spoil the last model.

    Steps of this size undo what its weights have learned. The check of the export has tests of its
    own, and imports TensorFlow anew.
    """
    folder = tmp_path_factory.mktemp("days")
    with (
        zipfile.ZipFile(root / "archives" / "digits.zip") as digits,
        zipfile.ZipFile(folder / "2026-11-18.zip", "w") as day,
    ):
        for name in digits.namelist()[::3]:
            day.writestr(name, digits.read(name))
    return (
        f"input.paths={folder}/{{YYYY}}-{{MM}}-{{DD}}.zip",
        "trainer.epochs=2",
        "trainer.optimizer.learning_rate=0.1",
        "serving_check.enabled=false",
        "evaluation.min_accuracy=0",
        "evaluation.min_class_recall=null",
    )


def test_the_days_after(first: Run, root: Path, days: Commands, changed: tuple[str, ...]) -> None:
    """The new model would pass every absolute bound, and is refused by its change."""
    idle = days.start("retrain")
    assert (idle.code, idle.result["trained"]) == (0, False)
    assert "trained on these images" in idle.result["reason"]

    killed = days.start("retrain", *changed, kill_at="learn the preprocessing")
    assert killed.code == -signal.SIGKILL, killed.text
    assert {name for name, state in days.states().items() if state == "done"} == BEFORE_TRAINING

    resumed = days.start("retrain", *changed)
    assert (resumed.code, resumed.result["trained"]) == (3, True), resumed.text
    assert resumed.result["reason"].endswith("was interrupted and resumes")
    assert {name for name, state in days.states().items() if state == "cached"} == BEFORE_TRAINING
    run = resumed.result["run"]
    rows = {check["metric"]: check for check in run["checks"]}
    assert rows["change of accuracy"]["verdict"] == "REFUSED"
    assert rows["flipped labels"]["verdict"] == "REFUSED"
    assert re.match(r"0\.9\d+, log loss|1\.0+, log loss", rows["last blessed model"]["value"])
    assert len(run["refusals"]) == 2
    assert "surely a loss" in run["refusals"][0]
    versions = [path.name for path in (root / "pushed").glob("[0-9]*")]
    assert versions == [Path(first.result["pipeline"]["pushed"]).name], "nothing worse is pushed"
    trained = Path(first.result["pipeline"]["pictures"]).parent.name
    assert run["warm_start"].startswith("12 of 12 weights are those of")
    assert run["warm_start"].endswith(f"Trainer/model/{trained}/Format-Serving")

    idle = days.start("retrain", *changed)
    assert (idle.code, idle.result["trained"]) == (0, False)
    assert "trained on these images and was refused" in idle.result["reason"]
    again = days.start("run", *changed)
    assert again.result["refusals"] == run["refusals"]
    assert recomputed(again) == set(), "it starts from what it started from, so it is cached"


def test_everything_may_lie_in_a_bucket(
    root: Path, days: Commands, changed: tuple[str, ...], tmp_path: Path
) -> None:
    """Two machines that have never seen the root, each with a store of its own."""
    settings = (*changed, "evaluation.max_accuracy_drop=1", "evaluation.max_flips=1")

    def run(bucket: str) -> tuple[Run, list[dict[str, Any]]]:
        machine = tmp_path / bucket.partition(":")[0]
        machine.mkdir()
        place = f"{bucket}/runs"
        environment = {
            "XDG_CACHE_HOME": str(machine / "cache"),
            # The store's, not the planted one.
            "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        }
        commands = Commands(machine, days.settings, place, environment)
        done = commands.start("run", *settings, *labelling(root))
        assert done.code == 0, done.text
        assert done.result["pushed"].startswith(f"{place}/pushed/")
        # It names the machine's copy.
        folder = f"{place}/artifacts{done.result['labelled'].partition('/artifacts')[2]}"
        parts = [name for name in files.walk(folder) if name.startswith("table/")]
        tables = [pq.read_table(io.BytesIO(files.read_bytes(f"{folder}/{n}"))) for n in parts]
        rows = [table.select(["member", "label"]).to_pylist() for table in tables]
        return done, [row for part in rows for row in part]

    with emulators.bucket("s3") as s3, emulators.bucket("gs") as gs:
        files.copy_tree(str(root / "artifacts"), f"{s3}/runs/artifacts")
        files.copy(str(root / "metadata.sqlite"), f"{s3}/runs/metadata.sqlite")
        # The first to be blessed on these bounds, so it labels and pushes.
        first, rows = run(s3)
        assert recomputed(first) == {"ModelGate", "Pusher", "BulkInference"}
        assert len(rows) == 359

        # A copy of the whole: only the push has another place.
        files.copy_tree(f"{s3}/runs/artifacts", f"{gs}/runs/artifacts")
        files.copy(f"{s3}/runs/metadata.sqlite", f"{gs}/runs/metadata.sqlite")
        second, same = run(gs)
        assert recomputed(second) == {"Pusher"}
        assert same == rows
        for name in ("saved_model.pb", "variables/variables.index"):
            pushed = [files.read_bytes(f"{r.result['pushed']}/{name}") for r in (first, second)]
            assert pushed[0] == pushed[1]


def test_no_value_of_a_secret_is_left_behind(root: Path, days: Commands) -> None:
    reachable = ["input.paths=gs://store/digits.zip", "push.directory=gs://store/pushed"]
    for name in ("compiled.json", "compiled.yaml"):
        compiled = days.start("compile", *reachable, output=str(root / name))
        assert compiled.code == 0, compiled.text
    # The values were within reach: one in the configuration is seen, and refused by its name.
    held = f"name={PLANTED['STORE_TOKEN']}"
    refused = days.start("compile", *reachable, held, output=str(root / "refused.json"))
    assert refused.code == 1
    assert "$STORE_TOKEN" in refused.result["error"]

    written = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for name, value in PLANTED.items():
        naming = {path.name for path, content in written.items() if name.encode() in content}
        assert naming >= {"config.yaml", "compiled.json", "compiled.yaml"}, "names are allowed"
        for form in (value, quote_plus(value), b64encode(value.encode()).decode()):
            assert [path for path, content in written.items() if form.encode() in content] == []
    names = {path.name for path in written}
    assert names >= {"metadata.sqlite", "saved_model.pb", "report.html", "INFRA_BLESSED", "1.txt"}
    assert "refused.json" not in names
