"""Pictures over epochs: few, early ones first, rows as the run report reads them."""

from pathlib import Path

import pytest
import tensorflow as tf

from tests.trainer.tiny import CLASSES, SHAPE, image_set, model_config
from trainer.model.vae_classifier import VaeClassifier
from trainer.quality.strip import FOLDER, ORIGINALS, SHOWN, Strip


def shape_of(path: Path) -> tuple[int, ...]:
    return tuple(tf.io.decode_png(path.read_bytes()).shape)


@pytest.mark.parametrize(
    ("every", "conditioning", "expected"),
    [
        (1, "latent", [0, 1, 6, 32, 178, 250, 500, 750, 1000]),
        (100, "label", [0, 100, 200, 300, 500, 800, 1000]),
        (1000, "hidden", [0, 1000]),
    ],
)
def test_pictures_are_few_and_include_both_ends(
    tmp_path: Path, every: int, conditioning: str, expected: list[int]
) -> None:
    model = VaeClassifier(
        config=model_config(conditioning=conditioning), image_shape=SHAPE, num_classes=CLASSES,
        pixel_mean=[0.5], pixel_std=[0.3],
    )  # fmt: skip
    strip = Strip(str(tmp_path), image_set(20).images, seed=1, total_steps=1000)
    for step in range(0, 1001, every):
        strip.take(step, model)
    folder = tmp_path / FOLDER
    assert sorted(int(path.stem[5:]) for path in folder.glob("step-*.png")) == expected
    height, width, channels = SHAPE
    rows = 1 if conditioning == "hidden" else 2
    assert shape_of(folder / ORIGINALS) == (height, SHOWN * width, channels)
    assert shape_of(folder / "step-00001000.png") == (rows * height, SHOWN * width, channels)
