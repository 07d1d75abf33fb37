"""An explanation: the same row again, and a plain word where it can't be."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.image_sources.config import InputConfig
from components.review.explanation import explain_row
from components.review.labelled_archive import LabelledArchive
from pipeline.report.explanation_page import write_explanation
from tests.components.bulk_inference.archives import digits, jpeg, noise, write_folder, write_zip
from tests.components.bulk_inference.model_fixture import copy_model
from tests.pipeline.report.test_reports import assert_harmless
from trainer.errors import InputError


@pytest.fixture(scope="module")
def table(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, `images.zip` and the table of it."""
    folder = tmp_path_factory.mktemp("explained")
    copy_model(model, folder / "1")
    members = {f"a/{name}": data for name, data in digits(30).items()}
    members["a/copy.png"] = members["a/digit_0003.png"]
    members["b/photo.jpg"] = jpeg(noise(1, (40, 30, 3))[0])
    write_zip(folder / "images.zip", members)
    classify(folder, folder / "images.zip", folder / "out")
    return folder


def classify(folder: Path, path: Path, output: Path, **options: object) -> None:
    inputs = InputConfig(paths=(str(path),))
    settings = {"model": str(folder / "1"), "output": str(output), "input": inputs, **options}
    run_bulk(BulkConfig.model_validate(settings))


@pytest.mark.parametrize("key", ["a/digit_0003.png", "photo.jpg"])
def test_a_row_comes_out_the_same(table: Path, key: str) -> None:
    found = explain_row(str(table / "out"), key)
    assert found.row["key"].endswith(key)
    assert found.is_same
    assert found.line().startswith("comes out the same")
    columns = {cell.column for cell in found.cells}
    assert {"sha256", "label", "probability", "embedding", "verdict", "code_digest"} <= columns
    assert {then == now for then, now in found.libraries.values()} == {True}
    assert found.libraries["tensorflow"][0]
    distances = [row["distance"] for row in found.neighbours]
    assert distances == sorted(distances)
    assert len(distances) == 8


def test_the_nearest_image_is_the_copy(table: Path) -> None:
    found = explain_row(str(table / "out"), "a/digit_0003.png")
    assert found.neighbours[0]["member"] == "a/copy.png"
    assert found.neighbours[0]["distance"] == pytest.approx(0, abs=1e-5)
    rows = [r for shard in LabelledArchive(str(table / "out")).shards for b in
            LabelledArchive(str(table / "out")).rows(shard) for r in b.to_pylist()]  # fmt: skip
    own = np.array(found.row["embedding"])
    expected = sorted(
        float(np.linalg.norm(np.array(row["embedding"]) - own))
        for row in rows
        if row["key"] != found.row["key"]
    )
    assert [row["distance"] for row in found.neighbours] == pytest.approx(expected[:8], rel=1e-5)


def test_the_page_is_harmless(table: Path, tmp_path: Path) -> None:
    output = str(table / "out")
    page = tmp_path / "page.html"
    write_explanation(output, explain_row(output, "photo.jpg"), str(page))
    parsed = assert_harmless(page.read_text("utf-8"))
    assert "comes out the same" in parsed.text
    assert "This part could not be made" not in parsed.text
    assert "as found" in parsed.text


def test_a_changed_image_comes_out_otherwise(table: Path, tmp_path: Path) -> None:
    members = digits(6)
    folder = write_folder(tmp_path / "images", members)
    classify(table, folder, tmp_path / "out")
    (folder / "digit_0002.png").write_bytes(members["digit_0004.png"])
    found = explain_row(str(tmp_path / "out"), "digit_0002.png")
    assert not found.is_same
    assert found.line().startswith("comes out otherwise now: sha256, ")
    (folder / "digit_0002.png").write_bytes(b"no image")
    broken = explain_row(str(tmp_path / "out"), "digit_0002.png")
    assert broken.line().startswith("the image is a reject now: not_an_image: ")
    page = tmp_path / "page.html"
    write_explanation(str(tmp_path / "out"), broken, str(page))
    assert "The image is a reject now" in page.read_text("utf-8")
    (folder / "digit_0002.png").unlink()
    with pytest.raises(InputError, match=r"digit_0002\.png is not there any more"):
        explain_row(str(tmp_path / "out"), "digit_0002.png")


@pytest.mark.parametrize("table_format", ["csv", "jsonl"])
def test_other_formats_are_explained_without_neighbours_of_texts(
    table: Path, tmp_path: Path, table_format: str
) -> None:
    classify(table, table / "images.zip", tmp_path / "out", format=table_format)
    found = explain_row(str(tmp_path / "out"), "photo.jpg")
    assert found.is_same, found.line()


def test_what_cannot_be_explained_is_said(table: Path, tmp_path: Path) -> None:
    output = table / "out"
    with pytest.raises(InputError, match=r"no row has the key nothing\.png"):
        explain_row(str(output), "nothing.png")
    classify(table, table / "images.zip", tmp_path / "few", columns=("key", "label", "probability"))
    with pytest.raises(InputError, match="the table has no columns source and member"):
        explain_row(str(tmp_path / "few"), "photo.jpg")
    twice = write_zip(tmp_path / "twice.zip", {"x/1.png": digits(1)["digit_0000.png"],
                                               "y/1.png": digits(2)["digit_0001.png"]})  # fmt: skip
    classify(table, twice, tmp_path / "twice")
    with pytest.raises(InputError, match=r"1\.png: the end of several keys, such as .*x/1\.png"):
        explain_row(str(tmp_path / "twice"), "1.png")
    moved = shutil.copytree(output, tmp_path / "other")
    manifest = moved / "_manifest.json"
    manifest.write_text(manifest.read_text().replace('"model-7"', '"another"'))
    with pytest.raises(InputError, match="not the model that made"):
        explain_row(str(moved), "photo.jpg")
