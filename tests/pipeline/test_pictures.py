"""The pictures of a training, on data that are unusual."""

from pathlib import Path

import numpy as np

from pipeline.pictures import _latent_map, _save


def test_every_class_is_in_the_legend_by_its_name(tmp_path: Path) -> None:
    classes = ["_background_", "price_$_a_$", "cat"]
    figure = _latent_map(np.eye(3, 4, dtype=np.float32), np.arange(3, dtype=np.int32), classes)
    _save(figure, str(tmp_path), "map.png")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == classes
