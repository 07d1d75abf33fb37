"""The Transform graph as training and serving read it."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.conftest import IMAGE, Exported, transformed
from tests.serving.test_export import example
from trainer.data.pixels import to_levels
from trainer.data.preprocessing import RecordTransform, parse_records


@pytest.fixture(scope="module")
def transform(transform_graph: Path) -> RecordTransform:
    return RecordTransform(transform_graph, IMAGE)


def test_moments_are_those_of_the_pixels(transform: RecordTransform, tmp_path: Path) -> None:
    contents = [content for content, _ in transformed(tmp_path)]
    pixels = np.stack([tf.io.decode_png(c, channels=1).numpy() for c in contents]) / 255.0
    mean, std = transform.moments()
    np.testing.assert_allclose(mean, [pixels.mean()], rtol=1e-5)
    np.testing.assert_allclose(std, [pixels.std()], rtol=1e-4)


def test_images_are_levels_over_255_and_give_them_back(
    transform: RecordTransform, exported: Exported
) -> None:
    images = transform.images(tf.constant(exported.contents)).numpy()
    np.testing.assert_allclose(images, exported.pixels / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(to_levels(tf.constant(images)), exported.pixels)


def test_classes_are_in_their_natural_order(transform: RecordTransform) -> None:
    assert transform.classes == tuple("0123456789")
    numbers = transform.labels(tf.constant(["7", "", "0", "unknown", "9"]))
    assert numbers.numpy().tolist() == [7, -1, 0, -1, 9]


def test_records_with_and_without_a_label_are_read(
    transform: RecordTransform, exported: Exported
) -> None:
    content = exported.contents[0]
    records = tf.constant([example(content, "3"), example(content, None)])
    levels, labels = transform.decode_examples(records)
    assert levels.dtype == tf.uint8
    np.testing.assert_array_equal(levels[0], exported.pixels[0])
    np.testing.assert_array_equal(levels[1], exported.pixels[0])
    assert labels.numpy().tolist() == [3, -1]
    assert parse_records(records)[1].numpy().tolist() == [b"3", b""]
