"""Generates images with a decoder: prior samples, rows of classes, and the latent manifold.

It calls the exported signature `generate`, so that the images are those that the model serves. The
run report and `vaeline sample` use it.
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
"""Smallest side of the tiles of a written grid, in pixels; smaller images are enlarged."""
MOST_CLASSES: Final = 50
"""Maximum number of rows of classes; of more classes, the first are shown."""
_MOST_PER_CLASS: Final = 20
_SIDE: Final = 15
"""Number of tiles per row of the manifold."""


@dataclass(frozen=True)
class Generator:
    """A model's `generate` signature.

    Attributes:
        function: the signature's function.
        latent_size: size d of the latent vectors.
        label_input: name of the input for the class; empty if there is none.
        takes_names: whether the class is given by name and not by index.
        classes: class names by index.
    """

    function: Any
    latent_size: int
    label_input: str
    takes_names: bool
    classes: list[str]

    def __call__(self, latent: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Decodes latent vectors.

        Args:
            latent: float32 [n, d].
            labels: int [n], indices of classes, if the decoder takes them.

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
    """Returns the generator of a loaded SavedModel.

    Raises:
        MissingPartError: the model's decoder needs an input image.
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
    """Generates images from the prior; class by class if the decoder takes one.

    Args:
        generator: The model's generator.
        count: number of images; if the decoder takes a class, for each of the first `MOST_CLASSES`
            classes.
        seed: seed of the latent vectors, which all classes share.

    Returns:
        uint8 [n, height, width, channels].
    """
    latent = np.random.default_rng(seed).normal(size=(count, generator.latent_size))
    if not generator.label_input:
        return generator(latent)
    every = min(len(generator.classes), MOST_CLASSES)
    return generator(np.tile(latent, (every, 1)), np.repeat(np.arange(every), count))


def manifold(generator: Generator, label: int = 0) -> np.ndarray:
    """Decodes the plane of a model with two latent dimensions.

    The grid has equal steps in probability, mapped through the inverse normal distribution function
    (Kingma and Welling 2014, appendix A).

    Returns:
        uint8 [height, width, channels], one picture.

    Raises:
        MissingPartError: the latent space does not have two dimensions.
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
    """Writes a PNG of samples, with a row for each class if the decoder takes one.

    Args:
        path: The path of the file.
        generator: The model's generator.
        count: number of images; of each class if the decoder takes one.
        seed: seed of the latent vectors.

    Returns:
        The numbers of `images`, `rows` and `columns`.
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
