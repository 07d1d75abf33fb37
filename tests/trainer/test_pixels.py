"""Decoding, channels and resizing, against Pillow and known pixels."""

import io

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer.config import ImageConfig
from trainer.data import pixels

RNG = np.random.default_rng(7)


def shaped(height: int, width: int, channels: int) -> ImageConfig:
    return ImageConfig.model_validate({"height": height, "width": width, "channels": channels})


def png(image: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image, mode).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_png_of_the_models_size_keeps_its_pixels() -> None:
    image = RNG.integers(0, 256, (5, 7), np.uint8)
    decoded = pixels.decode_batch(tf.constant([png(image)]), shaped(5, 7, 1))
    np.testing.assert_array_equal(decoded[0, ..., 0], image)


def test_every_format_and_kind_of_channels_decodes() -> None:
    colour = RNG.integers(0, 256, (6, 6, 3), np.uint8)
    contents = [png(colour), png(np.dstack([colour, np.full((6, 6), 255, np.uint8)]))]
    for name in ("JPEG", "BMP", "GIF"):
        buffer = io.BytesIO()
        Image.fromarray(colour).save(buffer, format=name)
        contents.append(buffer.getvalue())
    for channels in (1, 3):
        decoded = pixels.decode_batch(tf.constant(contents), shaped(6, 6, channels))
        assert decoded.shape == (5, 6, 6, channels)
    np.testing.assert_array_equal(decoded[0], colour)
    np.testing.assert_array_equal(decoded[1], colour)


def test_grey_is_the_luma_of_jpeg() -> None:
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]] * 4, np.uint8)
    grey = pixels.fit_to_shape(tf.constant(image[np.newaxis]), shaped(4, 4, 1))
    np.testing.assert_array_equal(grey[0, 0, :, 0], [76, 150, 29, 9])


def test_colour_of_grey_repeats_it_and_alpha_is_dropped() -> None:
    grey_alpha = RNG.integers(0, 256, (1, 4, 4, 2), np.uint8)
    colour = pixels.fit_to_shape(tf.constant(grey_alpha), shaped(4, 4, 3)).numpy()
    for channel in range(3):
        np.testing.assert_array_equal(colour[..., channel], grey_alpha[..., 0])


@pytest.mark.parametrize("size", [(64, 48), (20, 20), (9, 31)])
def test_resizing_agrees_with_pillow(size: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    ours = pixels.fit_to_shape(tf.constant(image[np.newaxis]), shaped(16, 16, 3))[0]
    picture = Image.fromarray(image)
    if size[0] >= 4 * 16:
        picture = picture.reduce((1, size[0] // 32))
    theirs = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(ours, theirs)


def test_an_image_does_not_depend_on_its_batch() -> None:
    batch = RNG.integers(0, 256, (8, 30, 20, 1), np.uint8)
    together = pixels.fit_to_shape(tf.constant(batch), shaped(12, 12, 1)).numpy()
    alone = [
        pixels.fit_to_shape(tf.constant(image[np.newaxis]), shaped(12, 12, 1))[0] for image in batch
    ]
    np.testing.assert_array_equal(together, alone)


def test_levels_survive_the_unit_interval() -> None:
    levels = tf.range(256, dtype=tf.int32)
    levels = tf.cast(levels, tf.uint8)
    np.testing.assert_array_equal(pixels.to_levels(pixels.to_unit(levels)), levels)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_jpeg_decodes_to_opencvs_pixels(mode: str, quality: int) -> None:
    noise = RNG.integers(0, 256, (3, 37, 41, 3), np.uint8)
    contents = []
    for image in noise:
        buffer = io.BytesIO()
        Image.fromarray(image).convert(mode).save(buffer, format="JPEG", quality=quality)
        contents.append(buffer.getvalue())
    image_config = shaped(37, 41, 1 if mode == "L" else 3)
    ours = pixels.decode_batch(tf.constant(contents), image_config).numpy()
    for image, content in zip(ours, contents, strict=True):
        theirs = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(
            np.squeeze(image), theirs[..., ::-1] if mode == "RGB" else theirs
        )


def test_an_undecodable_image_fails_the_graph() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        pixels.decode_batch(tf.constant([b"no image"]), shaped(4, 4, 1))
