"""The run report shows groups of near-duplicates with their pictures."""

from pathlib import Path

import apache_beam as beam
import pytest
import yaml
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.image_example_gen.ingest import ingest
from components.image_sources.config import InputConfig
from pipeline.report import run_sections
from pipeline.report.album import Album
from pipeline.report.originals import Originals
from pipeline.runs.run import Run
from pipeline.runs.step import Step
from tests import archives
from tests.near_copies import brighter, picture, png_of, reencoded
from trainer.config import ImageConfig


def ingested(folder: Path, near: str) -> Run:
    files = {f"cat/{seed}.png": png_of(picture(seed, 48)) for seed in range(9)}
    files |= {f"dog/{seed}.png": png_of(picture(seed, 48)) for seed in range(20, 29)}
    files |= {"cat/3-b.png": png_of(reencoded(picture(3, 48)))}
    files |= {"dog/5-b.png": png_of(brighter(picture(5, 48)))}
    section = {
        "paths": str(archives.write(folder / "a.zip", files)),
        "duplicates": {"near": near},
        "splits": {"test": 0.4},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "near", "input": section}))
    examples = folder / "examples"
    ingest(
        InputConfig.model_validate(section),
        str(examples),
        lambda: beam.Pipeline(FnApiRunner()),
        image=ImageConfig(height=48, width=48),
    )
    step = Step("ImageExampleGen", seconds=1.0, outputs={"examples": [str(examples)]})
    return Run("2026-11-22T10:00:00", 0.0, folder, {"ImageExampleGen": step})


@pytest.mark.parametrize("near", ["off", "report", "group"])
def test_groups_with_pictures(tmp_path: Path, near: str) -> None:
    run = ingested(tmp_path, near)
    facts = run_sections.duplicates(run, Album(), Originals(run))
    if near == "off":
        assert facts["groups"] == []
        return
    assert facts["near"]["groups"] == 2
    # The group with two labels comes first.
    names = [{Path(card["lines"][-1]).stem for card in cards} for cards in facts["groups"]]
    assert names == [{"5", "5-b"}, {"3", "3-b"}]
    pictures = [card["picture"] for cards in facts["groups"] for card in cards]
    assert all(picture is not None and picture.width == 48 for picture in pictures)
