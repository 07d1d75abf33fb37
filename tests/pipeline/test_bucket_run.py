"""A pipeline whose artifacts, pushed model and labelled table all lie in a store of objects."""

import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.digits import write_digits
from tests import emulators
from tests.pipeline.orchestration.cluster import WarmProcess
from trainer.storage import files

PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "trainer.epochs=1",
    "evaluation.min_accuracy=0.01",
    "evaluation.min_class_recall=0",
    "serving_check.enabled=false",
    "bulk.in_pipeline=true",
)
pytestmark = pytest.mark.e2e


@dataclass
class Machine:
    """Commands on one machine, which reaches both stores.

    Attributes:
        cache: its copies of the roots.
        archive: the images.
        warm: runs the commands.
    """

    cache: Path
    archive: Path
    warm: WarmProcess

    def run(self, root: str) -> dict[str, Any]:
        """Runs the pipeline; returns its result."""
        settings = [
            *SETTINGS,
            f"input.paths=['{self.archive}']",
            f"bulk.input={{paths: ['{self.archive}']}}",
        ]
        argv = ["python", "-m", "pipeline.cli", "run", "--config", "digits", "--json"]
        argv += ["--root", root, *(part for each in settings for part in ("--set", each))]
        log = self.cache.with_suffix(".txt")
        assert self.warm(argv, log) == 0, log.read_text()
        results = [line for line in log.read_text().splitlines() if line.startswith("{")]
        result: dict[str, Any] = json.loads(results[-1])
        return result

    def forget(self) -> None:
        """Becomes a machine that has never seen a root."""
        self.cache.rename(self.cache.with_name("forgotten"))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, str, str]]:
    folder = tmp_path_factory.mktemp("machine")
    whole = write_digits(folder / "digits").labelled
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(folder / "few.zip", "w") as few:
        for name in source.namelist()[::4]:
            few.writestr(name, source.read(name))
    with emulators.bucket("s3") as s3, emulators.bucket("gs") as gs:
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        warm = WarmProcess(PROJECT, environment)
        yield Machine(folder / "cache", folder / "few.zip", warm), s3, gs
        warm.close()


def table(root: str) -> list[dict[str, Any]]:
    """Reads the labelled table of a root in a store."""
    folder = f"{root}/artifacts/BulkInference/annotations"
    names = [name for name in files.walk(folder) if "/table/" in name]
    return [
        row
        for name in names
        for row in pq.ParquetFile(io.BytesIO(files.read_bytes(f"{folder}/{name}")))
        .read(["member", "label"])
        .to_pylist()
    ]


def test_everything_lies_in_the_bucket(machine: tuple[Machine, str, str]) -> None:
    here, s3, gs = machine
    first = here.run(f"{s3}/runs")
    assert first["pushed"].startswith(f"{s3}/runs/pushed/")
    assert files.exists(f"{first['pushed']}/saved_model.pb")
    rows = table(f"{s3}/runs")
    with zipfile.ZipFile(here.archive) as archive:
        assert len(rows) == len(archive.namelist())
    steps = set(files.list_names(f"{s3}/runs/artifacts"))
    assert {"ImageExampleGen", "Transform", "Trainer", "Evaluator", "BulkInference"} <= steps
    # Another machine, and another store with a copy: only the push has another place.
    here.forget()
    for name in ("artifacts", "metadata.sqlite"):
        copy = files.copy if name == "metadata.sqlite" else files.copy_tree
        copy(f"{s3}/runs/{name}", f"{gs}/runs/{name}")
    second = here.run(f"{gs}/runs")
    again = {name for name, step in second["steps"].items() if not step["cached"]}
    # The resolver only looks into the metadata store, at every run.
    assert again == {"baseline_model", "Pusher"}
    assert second["pushed"].startswith(f"{gs}/runs/pushed/")
    assert table(f"{gs}/runs") == rows
    for name in ("saved_model.pb", "variables/variables.index"):
        pushed = [files.read_bytes(f"{place['pushed']}/{name}") for place in (first, second)]
        assert pushed[0] == pushed[1]
