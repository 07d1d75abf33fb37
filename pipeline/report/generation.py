"""Images that a decoder makes: prior samples, rows of classes, the manifold of a plane.

Asked through the exported signature `generate`, so that what is shown is what the model serves.
The run report and `vaeline sample` call it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from scipy import stats

from pipeline.report.album import sheet
from pipeline.report.page import MissingPartError
from serving import names
from trainer.model_card import ModelCard

_TILE: Final = 32
"""Tiles of a written grid are enlarged to at least this many pixels."""
MOST_CLASSES: Final = 50
"""Rows of classes; of more classes the first."""
_MOST_PER_CLASS: Final = 20
_SIDE: Final = 15
"""Tiles of a row of the manifold."""


@dataclass(frozen=True)
class Generator:
    """A model's `generate` signature.

    Attributes:
        function: the signature.
        latent_size: d.
        label_input: name of the input that takes the class; empty where there is none.
        takes_names: the class is given by name and not by number.
        classes: names by number.
    """

    function: Any
    latent_size: int
    label_input: str
    takes_names: bool
    classes: list[str]

    def __call__(self, latent: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Decodes latents.

        Args:
            latent: float32 [n, d].
            labels: int [n], numbers of classes, where the decoder takes them.

        Returns:
            uint8 [n, height, width, channels].
        """
        import tensorflow as tf

        inputs = {names.LATENT: tf.constant(latent.astype(np.float32))}
        if self.label_input:
            numbers = np.zeros(len(latent), np.int64) if labels is None else labels
            spec = self.function.structured_input_signature[1][self.label_input]
            given = [self.classes[number] for number in numbers] if self.takes_names else numbers
            inputs[self.label_input] = tf.constant(given, spec.dtype)
        return np.asarray(self.function(**inputs)[names.IMAGE])


def find_generator(model: Any, card: ModelCard) -> Generator:
    """The generator of a loaded SavedModel.

    Raises:
        MissingPartError: its decoder makes no images by itself.
    """
    if names.GENERATE not in model.signatures:
        raise MissingPartError(
            "This model has no signature `generate`: its decoder makes no images from a latent"
            " alone (model.conditioning)."
        )
    function = model.signatures[names.GENERATE]
    inputs = function.structured_input_signature[1]
    others = [name for name in inputs if name != names.LATENT]
    label_input = others[0] if others else ""
    takes_names = bool(label_input) and inputs[label_input].dtype.name == "string"
    return Generator(function, card.embedding_size, label_input, takes_names, list(card.classes))


def prior_samples(generator: Generator, *, count: int, seed: int) -> np.ndarray:
    """Samples of the prior; by class, class after class, where the decoder takes one.

    Args:
        generator: The model's.
        count: how many; of each class, for the first `MOST_CLASSES`, where there are classes.
        seed: of the latents; rows of classes share them.

    Returns:
        uint8 [n, height, width, channels].
    """
    latent = np.random.default_rng(seed).normal(size=(count, generator.latent_size))
    if not generator.label_input:
        return generator(latent)
    every = min(len(generator.classes), MOST_CLASSES)
    return generator(np.tile(latent, (every, 1)), np.repeat(np.arange(every), count))


def manifold(generator: Generator, label: int = 0) -> np.ndarray:
    """The decoded plane of a model with two latent dimensions.

    A grid of equal steps in probability, mapped through the inverse of the normal distribution
    (Kingma and Welling 2014, appendix A).

    Returns:
        uint8 [height, width, channels], one picture.

    Raises:
        MissingPartError: the latent space is no plane.
    """
    if generator.latent_size != 2:
        raise MissingPartError(
            f"Only for two latent dimensions; this model has {generator.latent_size}."
        )
    steps = stats.norm.ppf((np.arange(_SIDE) + 0.5) / _SIDE)
    across, down = np.meshgrid(steps, steps[::-1])
    latent = np.stack([across.ravel(), down.ravel()], axis=1)
    return sheet(list(generator(latent, np.full(len(latent), label))), _SIDE)


def write_grid(path: Path, generator: Generator, *, count: int, seed: int) -> dict[str, int]:
    """Writes a PNG of samples, a row for each class where the decoder takes one.

    Args:
        path: The file.
        generator: The model's.
        count: how many; of each class where there are classes.
        seed: of the latents.

    Returns:
        `images`, `rows` and `columns`.
    """
    if generator.label_input:
        count = min(count, _MOST_PER_CLASS)
    images = prior_samples(generator, count=count, seed=seed)
    columns = count if generator.label_input else int(np.ceil(np.sqrt(len(images))))
    factor = max(1, -(-_TILE // min(images.shape[1:3])))
    enlarged = images.repeat(factor, axis=1).repeat(factor, axis=2)
    grid = sheet(list(enlarged), columns, gap=2)
    if grid.shape[2] == 3:
        grid = cv2.cvtColor(grid, cv2.COLOR_RGB2BGR)
    path.parent.mkdir(parents=True, exist_ok=True)
    _, png = cv2.imencode(".png", grid)
    path.write_bytes(png.tobytes())
    return {"images": len(images), "rows": -(-len(images) // columns), "columns": columns}
