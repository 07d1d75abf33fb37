"""Pictures of original files in a run report, where the records hold small images."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.report.album import LARGEST_SIDE
from pipeline.report.originals import Originals
from pipeline.runs.run import Run, Step
from tests import archives


def make_run(root: Path, source: Path, *, stored_at_model_size: int = 3) -> Run:
    examples = root / "examples"
    examples.mkdir(parents=True)
    account = {"stored_at_model_size": stored_at_model_size, "rejected": 0}
    (examples / "account.json").write_text(json.dumps(account))
    config = {"name": "photos", "input": {"paths": [str(source)]}}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    step = Step("ImageExampleGen", seconds=1.0, outputs={"examples": [str(examples)]})
    return Run("2026-11-22T10:00:00", 0.0, root, {"ImageExampleGen": step})


def photos() -> dict[str, bytes]:
    return {
        "cat/wide.jpg": archives.jpeg(1, height=500, width=1000),
        "cat/turned.jpg": archives.turned_jpeg(6),
        "dog/small.png": archives.png(3, height=20, width=30, channels=3),
        "dog/broken.jpg": b"\xff\xd8\xff and no more",
    }


@pytest.mark.parametrize("name", ["a.zip", "tree", "list.csv"])
def test_thumbnails_of_originals(name: str, tmp_path: Path) -> None:
    source = archives.write(tmp_path / name, photos())
    above = tmp_path / "files" if name == "list.csv" else source
    keys = {member: f"{above}/{member}" for member in photos()}
    found = Originals(make_run(tmp_path / "root", source)).thumbnails(keys.values())
    assert found.keys() == {key for member, key in keys.items() if "broken" not in member}
    assert found[keys["cat/wide.jpg"]].shape == (LARGEST_SIDE // 2, LARGEST_SIDE, 3)
    height, width, _ = found[keys["cat/turned.jpg"]].shape
    assert height > width
    assert found[keys["dog/small.png"]].shape == (20, 30, 3)
    np.testing.assert_array_equal(
        found[keys["dog/small.png"]], archives.pixels(3, height=20, width=30, channels=3)
    )


def test_nothing_is_fetched_without_need_or_where_it_takes_long(tmp_path: Path) -> None:
    source = archives.write(tmp_path / "a.zip", photos())
    keys = [f"{source}/{member}" for member in photos()]
    originals = Originals(make_run(tmp_path / "1", source, stored_at_model_size=0))
    assert originals.thumbnails(keys) == {}
    stream = archives.write(tmp_path / "a.tar", photos())
    originals = Originals(make_run(tmp_path / "2", stream))
    assert originals.thumbnails([f"{stream}/{member}" for member in photos()]) == {}
    gone = Originals(make_run(tmp_path / "3", tmp_path / "gone.zip"))
    assert gone.thumbnails([f"{tmp_path}/gone.zip/cat/wide.jpg"]) == {}
