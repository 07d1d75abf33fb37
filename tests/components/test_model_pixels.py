"""One definition of the model's pixels: in ingest, Transform, the served graph and the bulk job."""

import functools
import io
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.image_checks import (
    ImageFaultError,
    ImageHeader,
    check,
    decode,
    encode_png,
    jpeg_ratio,
    model_pixels,
    to_servable,
)
from components.image_checks.model_pixels import fit
from components.image_sources.config import LimitsConfig
from serving.input_validation import validate_files
from trainer.config import ImageConfig
from trainer.data import pixels

# Small, tall and wide models, so that images of a few hundred pixels use every scale. The graphs of
# each take seconds to trace.
IMAGES = [
    ImageConfig(height=11, width=6, channels=1),
    ImageConfig(height=9, width=17, channels=3, fit="pad"),
    ImageConfig(height=16, width=5, channels=3, fit="crop"),
]
KINDS = [
    *(("jpeg", mode, sampling) for mode in ("L", "RGB") for sampling in (0, 1, 2)),
    ("jpeg", "CMYK", 0),
    *(("png", mode, 0) for mode in ("L", "LA", "RGB", "RGBA", "I;16")),
    ("bmp", "RGB", 0),
    ("gif", "RGB", 0),
]


@functools.cache
def decoding(image: ImageConfig) -> Any:
    """The graph of `decode_batch`, which takes seconds to trace."""
    spec = [tf.TensorSpec([None], tf.string)]
    return tf.function(
        lambda files: pixels.decode_batch(files, image), input_signature=spec, autograph=False
    )


def decoded_by_graphs(file: bytes, *records: bytes, image: ImageConfig) -> list[np.ndarray]:
    """What the signatures for files decode of a file, and Transform of each record."""
    decode_batch = decoding(image)
    validated = validate_files(tf.constant([file]), image)
    found = [decode_batch(validated), *(decode_batch(tf.constant([each])) for each in records)]
    return [images[0].numpy() for images in found]


# Tests of large files share them.
@functools.lru_cache(maxsize=8)
def make(
    kind: tuple[str, str, int], size: tuple[int, int], *, seed: int, orientation: int = 1
) -> bytes:
    """An image file of smoothed noise; sharp where the seed is even."""
    form, mode, sampling = kind
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (*size, 3), np.uint8)
    if seed % 2:
        noise = cv2.GaussianBlur(noise, (0, 0), 2).reshape(noise.shape)
    if mode == "I;16":
        picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 251)
    else:
        picture = Image.fromarray(noise).convert(mode)
    options: dict[str, Any] = {}
    if form == "jpeg":
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 60 + seed % 40, "subsampling": sampling, "exif": exif}
        options["progressive"] = seed % 3 == 0
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def header_of(file: bytes) -> ImageHeader:
    header = check(file, LimitsConfig(max_ratio=1e6))
    assert not isinstance(header, ImageFaultError), header
    return header


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    size=st.tuples(st.integers(1, 190), st.integers(1, 190)),
    orientation=st.integers(1, 8),
    image=st.sampled_from(IMAGES),
    seed=st.integers(0, 1000),
)
# With padding, one side alone decides the scale.
@example(kind=("jpeg", "CMYK", 0), size=(1, 68), orientation=1, image=IMAGES[1], seed=0)
@example(kind=("jpeg", "RGB", 2), size=(1, 150), orientation=6, image=IMAGES[1], seed=1)
def test_every_path_computes_the_same_pixels(
    kind: tuple[str, str, int],
    size: tuple[int, int],
    orientation: int,
    image: ImageConfig,
    seed: int,
) -> None:
    file = make(kind, size, seed=seed, orientation=orientation)
    header = header_of(file)
    expected = model_pixels(file, header, image)
    assert expected.shape == image.shape
    record = to_servable(file, header, image)
    # A record at the model's size holds exactly these pixels.
    stored = encode_png(expected)
    for found in decoded_by_graphs(file, record, stored, image=image):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("fitting", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1500, 2000), (2001, 499), (31, 1999)])
def test_large_images_agree_too(size: tuple[int, int], fitting: str) -> None:
    image = next(each for each in IMAGES if each.fit == fitting)
    for kind in (("jpeg", "RGB", 2), ("png", "RGB", 0)):
        file = make(kind, size, seed=3)
        header = header_of(file)
        expected = model_pixels(file, header, image)
        for found in decoded_by_graphs(file, file, image=image):
            np.testing.assert_array_equal(found, expected)


def test_the_scale_leaves_twice_the_size() -> None:
    image = ImageConfig(height=64, width=64, channels=3)
    ratios = {
        size: jpeg_ratio(ImageHeader("jpeg", *size, 3), image)
        for size in ((64, 64), (255, 4000), (256, 256), (511, 700), (512, 512), (3000, 4000))
    }
    assert list(ratios.values()) == [1, 1, 2, 2, 4, 8]
    assert jpeg_ratio(ImageHeader("png", 3000, 4000, 3), image) == 1
    # With padding, the short side becomes smaller than the model's.
    padded = image.model_copy(update={"fit": "pad"})
    assert jpeg_ratio(ImageHeader("jpeg", 255, 4000, 3), padded) == 8


def test_a_rotated_photo_is_stored_at_the_scale_that_it_decodes_at() -> None:
    image = ImageConfig(height=16, width=16, channels=3)
    file = make(("jpeg", "RGB", 2), (300, 200), seed=1, orientation=6)
    record = to_servable(file, header_of(file), image)
    stored = header_of(record)
    assert (stored.format, stored.height, stored.width) == ("png", 50, 75)


def test_without_a_reduction_the_resize_is_pillows() -> None:
    noise = np.random.default_rng(5).integers(0, 256, (60, 50, 3), np.uint8)
    image = ImageConfig(height=20, width=30, channels=3)
    theirs = np.asarray(Image.fromarray(noise).resize((30, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fit(noise, image), theirs)
    ours = pixels.fit_to_shape(tf.constant(noise[np.newaxis]), image)[0]
    np.testing.assert_array_equal(ours, theirs)


def test_a_reduced_image_looks_like_a_resized_one() -> None:
    scene = cv2.GaussianBlur(
        np.random.default_rng(6).integers(0, 256, (700, 900, 3), np.uint8), (0, 0), 25
    )
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
    image = ImageConfig(height=32, width=32, channels=3)
    whole = np.asarray(Image.fromarray(scene).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(fit(scene, image).astype(int) - whole).mean() < 3
    file = cv2.imencode(".jpg", scene[..., ::-1])[1].tobytes()
    assert np.abs(model_pixels(file, header_of(file), image).astype(int) - whole).mean() < 3


def test_crop_keeps_the_middle_and_pad_keeps_everything() -> None:
    # A red frame around a blue square, twice as wide as high.
    scene = np.zeros((40, 80, 3), np.uint8)
    scene[..., 0] = 255
    scene[:, 20:60] = (0, 0, 255)
    cropped = fit(scene, ImageConfig(height=8, width=8, channels=3, fit="crop"))
    np.testing.assert_array_equal(cropped, np.broadcast_to([0, 0, 255], (8, 8, 3)))
    padded = fit(scene, ImageConfig(height=8, width=8, channels=3, fit="pad"))
    np.testing.assert_array_equal(padded[[0, 1, 6, 7]], np.zeros((4, 8, 3)))
    np.testing.assert_array_equal(padded[2:6, 3:5], np.broadcast_to([0, 0, 255], (4, 2, 3)))
    assert (padded[2:6, [0, 7], 0] == 255).all()


def test_decoding_at_a_scale_turns_the_image_upright() -> None:
    file = make(("jpeg", "RGB", 0), (64, 32), seed=1, orientation=6)
    header = header_of(file)
    upright = decode(file, header)
    small = decode(file, header, ratio=4)
    assert small.shape == (8, 16, 3)
    averaged = np.asarray(Image.fromarray(upright).reduce(4)).astype(int)
    assert np.abs(small - averaged).mean() < 4
