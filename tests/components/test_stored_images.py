"""What a record holds: the original file or the model's pixels, see `input.store`."""

import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.image_checks import ImageFaultError, check, model_pixels
from components.image_example_gen.account import Account
from components.image_example_gen.ingest import ingest
from components.image_sources.config import InputConfig, LimitsConfig
from trainer.config import ImageConfig
from trainer.data import features
from trainer.data.pixels import decode_batch

IMAGE = ImageConfig(height=16, width=16, channels=3, fit="crop")

SHARES = {"validation": 0, "calibration": 0}


def picture(form: str, size: tuple[int, int], seed: int, orientation: int = 1) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 2)).save(buffer, form, exif=exif)
    return buffer.getvalue()


MEMBERS = {
    "train/a/photo.jpg": picture("jpeg", (300, 400), 1),
    "train/a/turned.jpg": picture("jpeg", (240, 100), 2, orientation=6),
    "train/a/large.png": picture("png", (90, 70), 3),
    "train/a/large.webp": picture("webp", (90, 70), 4),
    "train/b/small.png": picture("png", (12, 10), 5),
    "train/b/small.jpg": picture("jpeg", (9, 15), 6),
    "train/b/small.webp": picture("webp", (8, 8), 7),
    "train/b/of_the_size.png": picture("png", (16, 16), 8),
    "test/a/wide.jpg": picture("jpeg", (40, 80), 11),
    "test/b/small.png": picture("png", (10, 12), 12),
}
SMALL = {name for name in MEMBERS if "/b/" in name}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "photos.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in MEMBERS.items():
            opened.writestr(name, data)
    return path


def stored(
    archive: Path, out: Path, store: str, image: ImageConfig | None = IMAGE
) -> tuple[dict[str, dict[str, bytes | int]], Account]:
    """The features of each record by member, and the account."""
    config = InputConfig.model_validate({"paths": str(archive), "store": store, "splits": SHARES})
    account = ingest(config, str(out), beam.Pipeline, processes=0, image=image)
    found: dict[str, dict[str, bytes | int]] = {}
    for file in out.glob("Split-*/*.tfrecord"):
        for record in tf.data.TFRecordDataset(str(file)):
            example = tf.train.Example.FromString(record.numpy())
            values: dict[str, bytes | int] = {}
            for name, feature in example.features.feature.items():
                (values[name],) = feature.bytes_list.value or feature.int64_list.value
            filename = values[features.FILENAME]
            assert isinstance(filename, bytes)
            found[filename.decode().partition(".zip/")[2]] = values
    assert set(found) == set(MEMBERS)
    return found, account


Stored = Callable[[str], tuple[dict[str, dict[str, bytes | int]], Account]]


@pytest.fixture(scope="module")
def stored_as(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """What `stored` gives for each value of `input.store`, made once."""
    return functools.cache(
        lambda store: stored(archive, tmp_path_factory.mktemp("ingested") / "out", store)
    )


@functools.cache
def decoding() -> Any:
    """Transform's decoding. Outside of a graph it would be traced for each image."""
    text = tf.TensorSpec([None], tf.string)
    return tf.function(
        lambda files: decode_batch(files, IMAGE), input_signature=[text], autograph=False
    )


def expected_pixels(name: str) -> np.ndarray:
    header = check(MEMBERS[name], LimitsConfig())
    assert not isinstance(header, ImageFaultError)
    return model_pixels(MEMBERS[name], header, IMAGE)


def as_png(content: bytes | int) -> np.ndarray:
    assert isinstance(content, bytes)
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened)


@pytest.mark.parametrize("store", ["original", "model_size", "auto"])
def test_records_hold_what_is_asked_and_give_the_same_pixels(store: str, stored_as: Stored) -> None:
    found, account = stored_as(store)
    reduced = {"original": set(), "model_size": set(MEMBERS), "auto": set(MEMBERS) - SMALL}[store]
    for name, values in found.items():
        if name in reduced:
            np.testing.assert_array_equal(as_png(values[features.ENCODED]), expected_pixels(name))
        elif name in ("train/a/turned.jpg", "train/a/large.webp", "train/b/small.webp"):
            as_png(values[features.ENCODED])
        else:
            assert values[features.ENCODED] == MEMBERS[name]
    pixels = decoding()(tf.constant([values[features.ENCODED] for values in found.values()]))
    for name, levels in zip(found, pixels.numpy(), strict=True):
        np.testing.assert_array_equal(levels, expected_pixels(name))
    assert account.reduced == len(reduced)
    assert account.to_json()["stored_at_model_size"] == len(reduced)


def test_size_format_and_digest_are_those_of_the_original(stored_as: Stored) -> None:
    whole, _ = stored_as("original")
    small, _ = stored_as("model_size")
    for name, values in small.items():
        assert {**values, features.ENCODED: b""} == {**whole[name], features.ENCODED: b""}
    turned = small["train/a/turned.jpg"]
    assert (turned[features.HEIGHT], turned[features.WIDTH]) == (100, 240)
    assert turned[features.FORMAT] == b"jpeg"
    assert small["train/a/large.webp"][features.FORMAT] == b"webp"


def test_without_a_model_images_keep_their_size(archive: Path, tmp_path: Path) -> None:
    found, account = stored(archive, tmp_path / "out", "auto", image=None)
    assert found["train/a/photo.jpg"][features.ENCODED] == MEMBERS["train/a/photo.jpg"]
    assert as_png(found["train/a/turned.jpg"][features.ENCODED]).shape == (100, 240, 3)
    assert account.reduced == 0


def test_a_damaged_photo_is_rejected_however_it_would_be_stored(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in MEMBERS.items():
            opened.writestr(name, data)
        photo = bytearray(picture("jpeg", (300, 400), 9))
        opened.writestr("train/a/cut.jpg", bytes(photo[: len(photo) // 2]))
        opened.writestr("train/a/cut.png", picture("png", (90, 70), 10)[:-300])
    for store in ("original", "model_size"):
        config = InputConfig.model_validate(
            {"paths": str(path), "store": store, "max_rejected_share": 0.5, "splits": SHARES}
        )
        account = ingest(config, str(tmp_path / store), beam.Pipeline, processes=0, image=IMAGE)
        assert account.rejected.total() == 2, store
        assert account.examples.total() == len(MEMBERS), store
