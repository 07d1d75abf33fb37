"""Generated images through a signature: classes in rows, the plane in its order, a file."""

import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf

from pipeline.report.album import Album
from pipeline.report.generation import find_generator, manifold, prior_samples, write_grid
from pipeline.report.model_sections import samples
from pipeline.report.page import MissingPartError, Page
from trainer.model_card import ModelCard


class Decoder(tf.Module):
    """Paints the class (20 grey levels each) or the first latent dimension as one grey."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, name="latent"),
            tf.TensorSpec([None], tf.int64, name="label_index"),
        ]
    )
    def by_class(self, latent: tf.Tensor, label_index: tf.Tensor) -> dict[str, tf.Tensor]:
        grey = tf.cast(label_index * 20, tf.uint8)
        return {"image": tf.tile(grey[:, tf.newaxis, tf.newaxis, tf.newaxis], [1, 4, 4, 1])}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="latent")])
    def of_plane(self, latent: tf.Tensor) -> dict[str, tf.Tensor]:
        grey = tf.cast(tf.clip_by_value(latent[:, :1] * 40 + 128, 0, 255), tf.uint8)
        return {"image": tf.tile(grey[:, tf.newaxis, :, tf.newaxis], [1, 4, 4, 1])}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("generators")
    module = Decoder()
    loaded = {}
    for name, function in (("class", module.by_class), ("plane", module.of_plane)):
        tf.saved_model.save(module, str(folder / name), signatures={"generate": function})
        loaded[name] = tf.saved_model.load(str(folder / name))
    return loaded


CARD = ModelCard(classes=("a", "b", "c"), embedding_size=2)


def test_each_class_has_its_row(models: dict[str, Any], tmp_path: Path) -> None:
    generator = find_generator(models["class"], CARD)
    images = prior_samples(generator, count=5, seed=0)
    assert images.shape == (15, 4, 4, 1)
    assert images[:, 0, 0, 0].tolist() == [0] * 5 + [20] * 5 + [40] * 5
    drawn = write_grid(tmp_path / "deep" / "grid.png", generator, count=5, seed=0)
    assert drawn == {"images": 15, "rows": 3, "columns": 5}
    grid = cv2.imread(str(tmp_path / "deep" / "grid.png"), cv2.IMREAD_UNCHANGED)
    assert grid.shape == (3 * 34 - 2, 5 * 34 - 2)
    assert [int(grid[row * 34 + 5, 5]) for row in range(3)] == [0, 20, 40]


def test_the_page_says_how_many_classes_have_no_row(models: dict[str, Any]) -> None:
    many = CARD.model_copy(update={"classes": tuple(f"{k:02d}" for k in range(23))})
    page = Page("run report", "many classes")
    page.chapter("model", "Model")
    for name, card in (("class", many), ("plane", CARD)):
        generator = find_generator(models[name], card)
        page.section(name, name, "samples.html", functools.partial(samples, generator, Album()))
    by_class, of_prior = page.html(left_out=0).decode().split('id="plane"')
    assert "3 more classes are not shown" in by_class
    assert "not shown" not in of_prior


def test_the_plane_rises_from_left_to_right(models: dict[str, Any]) -> None:
    picture = manifold(find_generator(models["plane"], CARD))
    assert picture.shape == (60, 60, 1)
    row = picture[0, ::4, 0].astype(int)
    assert (np.diff(row) > 0).all()
    assert (picture[:, 0, 0] == picture[0, 0, 0]).all()
    assert row[7] == 128  # the middle of the grid is the middle of the prior


def test_a_decoder_that_makes_nothing_says_so(models: dict[str, Any]) -> None:
    class Silent:
        signatures: dict[str, Any] = {}

    with pytest.raises(MissingPartError, match="no signature `generate`"):
        find_generator(Silent(), CARD)
    wide = find_generator(models["plane"], CARD.model_copy(update={"embedding_size": 16}))
    with pytest.raises(MissingPartError, match="this model has 16"):
        manifold(wide)
