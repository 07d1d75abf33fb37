"""Images of the same pixels in another file, which no digest of the content finds."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.image_example_gen.account import Account
from components.image_example_gen.input_overview import describe_input
from components.image_example_gen.pixel_keys import pixel_keys
from components.image_example_gen.same_pixels import images_beside
from components.image_sources.config import InputConfig
from tests import archives
from tests.components.test_near_copies import run
from tests.near_copies import picture, png_of


def bmp_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "BMP")
    return buffer.getvalue()


def split_archive(path: Path) -> str:
    """Six training images; two of the test images are one of them as BMP, one is blank as well."""
    files = {f"train/{'ab'[seed % 2]}/{seed}.png": png_of(picture(seed)) for seed in range(6)}
    files |= {f"test/{'ab'[seed % 2]}/{seed}.bmp": bmp_of(picture(seed)) for seed in range(4, 8)}
    blank = np.full_like(picture(0), 90)
    files |= {"train/a/blank.png": png_of(blank), "test/a/blank.bmp": bmp_of(blank)}
    return str(archives.write(path, files))


def warnings(account: Account, path: str, **duplicates: str) -> list[str]:
    values: dict[str, Any] = {"paths": path, "duplicates": duplicates}
    config = InputConfig.model_validate(values)
    return [line for line in describe_input(account, config).warnings if "pixels" in line]


def test_test_images_that_training_has_in_another_file_are_named(tmp_path: Path) -> None:
    path, splits = split_archive(tmp_path / "a.zip"), {"validation": 0.0, "calibration": 0.0}
    options: dict[str, Any] = {"paths": path, "splits": splits}
    account = run(tmp_path / "off", near="off", **options)
    assert account.duplicates.total() == 0
    assert account.same_pixels == {"test": 2}
    told = json.loads((tmp_path / "off/account.json").read_text())
    assert told["same_pixels_in_another_split"] == {"test": 2}
    (line,) = warnings(account, path)
    assert "in a file of other content: 2 images (test 2); measures" in line
    assert line.endswith("set input.duplicates.near: group")
    grouped = run(tmp_path / "group", near="group", **options)
    assert (grouped.same_pixels, warnings(grouped, path, near="group")) == ({}, [])


def test_images_beside_others_are_counted_by_split() -> None:
    splits = ["train", "validation", "calibration", "test", "unlabelled"]
    train, validation, calibration, test, unlabelled = range(5)
    keys = np.array([7, 7, 7, 5, 5, 3, 3, 0, 0, 9, 9, 8, 8], np.uint64)
    places = [train, test, test, train, unlabelled, test, test, train, test]
    places += [validation, calibration, unlabelled, test]
    found = images_beside(keys, np.array(places, np.uint8), splits)
    assert found == {"test": 3, "validation": 1, "calibration": 1}


def test_keys_tell_pixels_apart_and_leave_out_blank_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), np.uint8)
    images[2] = images[0]
    images[3] = 17
    keys = pixel_keys(images)
    assert keys.dtype == np.uint64
    assert keys[0] == keys[2] != keys[1]
    assert keys[3] == 0 < keys[:3].min()
    assert (pixel_keys(images[:, ::-1]) == pixel_keys(np.ascontiguousarray(images[:, ::-1]))).all()
