"""`vaeline predict`: a table from a model directory or from a server, and a line per bad file."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.serving_check.server import free_port
from pipeline import predict
from pipeline.predict import PredictError, predict_images
from serving import names
from serving.predictions import ServingError
from tests import emulators
from tests.forked import vaeline
from tests.numeric import assert_close
from tests.pipeline.test_cli import assert_refused
from tests.serving.conftest import Exported, Reloaded
from tests.serving.model_servers import loopback
from trainer.storage.files import copy_tree


@pytest.fixture
def files(exported: Exported, tmp_path: Path) -> list[Path]:
    """Three digits; then none, a text, a torn PNG and one that breaks only when decoded."""
    contents = {
        **{f"{n}.png": exported.contents[n] for n in range(3)},
        "text.png": b"no image at all",
        "torn.png": exported.contents[0][:-20],
        "corrupt.png": exported.contents[0].replace(b"IDAT", b"IDAT", 1)[:50]
        + bytes(8)
        + exported.contents[0][58:],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in ("0.png", "none.png", *list(contents)[1:])]


@pytest.fixture
def loaded_once(reloaded: Reloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of the export on this machine take the loaded one, which saves seconds each."""
    load = predict._load
    monkeypatch.setattr(
        predict, "_load", lambda path: load(path) if "://" in path else reloaded.model
    )


def ask(files: Sequence[str | Path], **values: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"model": None, "server": None, "name": "vaeline", "version": None}
    return predict_images(files, **{**options, **values})


def test_model_and_server_answer_alike(exported: Exported, files: list[Path]) -> None:
    done = vaeline("predict", *map(str, files), "--model", str(exported.folder.parent), "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    good = [image for image in result["images"] if "label" in image]
    assert [image["file"] for image in good] == [str(files[n]) for n in (0, 2, 3)]
    analysis = exported.model.analyse((exported.pixels[:3] / 255.0).astype(np.float32))
    best = analysis["probabilities"].numpy().argmax(axis=1)
    assert [image["label"] for image in good] == [exported.transform.classes[n] for n in best]
    assert result["failed"] == 4
    errors = {Path(i["file"]).name: i["error"] for i in result["images"] if "error" in i}
    assert errors["none.png"] == "No such file or directory"
    assert errors["text.png"].startswith("not_an_image")
    assert set(errors) == {"none.png", "text.png", "torn.png", "corrupt.png"}
    for name, error in errors.items():
        assert "\n" not in error
        assert sum(f"{name}: {error}" in line for line in done.stderr.splitlines()) == 1
    # Above the default limit, which a server need not have, and no decompression bomb.
    pixels = np.zeros((7100, 7100), np.uint8)
    pixels[:40] = np.random.default_rng(0).integers(0, 255, (40, 7100))
    large = files[0].with_name("large.png")
    large.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    with loopback(exported.folder.parent) as addresses:
        for server in addresses.values():
            (refused,) = ask([large], server=server)["images"]
            assert "too many pixels: 7100 x 7100, the limit is 50000000" in refused["error"]
            served = ask(files, server=server)
            assert [image.get("label") for image in served["images"]] == [
                image.get("label") for image in result["images"]
            ]
            for ours, theirs in zip(result["images"], served["images"], strict=True):
                if "probability" in ours:
                    assert_close(theirs["probability"], ours["probability"])
            for options in ({"name": "flowers"}, {"version": "9"}, {"version": "candidate"}):
                with pytest.raises(ServingError, match=f"--name .*{next(iter(options.values()))}"):
                    ask(files, server=server, **options)


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("scheme", ["gs", "minio"])
def test_a_pushed_model_in_a_bucket_answers_alike(
    exported: Exported, files: list[Path], scheme: str
) -> None:
    with emulators.bucket(scheme) as bucket:
        copy_tree(str(exported.folder), f"{bucket}/pushed/7")
        remote = ask(files, model=f"{bucket}/pushed")
    assert remote["model"] == f"{bucket}/pushed/7"
    assert remote["images"] == ask(files, model=str(exported.folder))["images"]


def test_a_server_that_is_down_fails_the_command(files: list[Path]) -> None:
    server = f"http://127.0.0.1:{free_port()}"
    done = vaeline("predict", str(files[0]), "--server", server)
    assert_refused(done, server, "is the server up?")
    for address in ("localhost", ""):
        with pytest.raises(ServingError, match="give grpc://host:8500"):
            ask(files, server=address)


def test_model_or_server_has_to_be_given(files: list[Path]) -> None:
    for values in ({}, {"model": "a", "server": "b"}):
        with pytest.raises(PredictError, match="either --model DIR or --server URL"):
            ask(files, **values)
    # The newest would answer in its place.
    with pytest.raises(PredictError, match=r"give --model pushed/7 .* --model pushed@7"):
        ask(files, model="pushed", version="7")


def test_what_is_no_file_says_what_to_do(exported: Exported, tmp_path: Path) -> None:
    names_of = [str(tmp_path), "https://example.com/a.png"]
    folder, address = ask(names_of, model=str(exported.folder))["images"]
    assert folder["error"] == "a folder; give its images, or label it with `vaeline classify`"
    assert address == {
        "file": "https://example.com/a.png",
        "error": "an address; download the image and give the file",
    }


def test_the_limits_are_those_that_the_model_was_trained_with(
    exported: Exported, files: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported.folder, folder)
    for limit, error in (({"max_pixels": 63}, "too_many_pixels"), ({"max_bytes": 9}, "too_large")):
        config = {"input": {"limits": limit}}
        (folder / names.EXTRA_ASSETS / names.CONFIG).write_text(json.dumps(config))
        assert error in ask(files[:1], model=str(folder))["images"][0]["error"]


@pytest.mark.usefixtures("loaded_once")
def test_a_copy_without_its_configuration_has_the_default_limits(
    exported: Exported, files: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported.folder, folder)
    for content in ("", "[]", "input: [", None):
        config = folder / names.EXTRA_ASSETS / names.CONFIG
        if content is None:
            config.unlink()
        else:
            config.write_text(content)
        assert "label" in ask(files[:1], model=str(folder))["images"][0]
