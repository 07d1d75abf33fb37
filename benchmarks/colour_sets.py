"""Outliers of a model of photographs in colour, for `colour_outliers.py`.

None of these kinds is one that the calibration makes
(`trainer/quality/synthetic_outliers.py`), and no score, weight or threshold depends on them.
"""

from collections.abc import Callable

import cv2
import numpy as np

from trainer.data.input_pipeline import ImageSet

HELD_OUT = (8, 9)
"""The last two classes of the slice, `ship` and `truck`: no image of them is trained on."""
FAR = ("mnist", "noise", "blank", "textures")
"""Kinds that are no photographs. The near ones are photographs of the classes, changed."""
NEAR = ("rotated_90", "channels_swapped", "blurred")


def outlier_sets(photos: np.ndarray, digits: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Images of no class, uint8 [n, height, width, 3], by the kinds of `FAR` and `NEAR`.

    Args:
        photos: test images of the model's classes, uint8 [n, height, width, 3].
        digits: grey images, uint8 [m, 28, 28, 1].
        seed: of the random choices.
    """
    draw = np.random.default_rng([seed, 11])
    count, height, width, _ = photos.shape
    rows, columns = height - digits.shape[1], width - digits.shape[2]
    border = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    colours = draw.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    return {
        "mnist": np.repeat(np.pad(digits[:count], border), 3, axis=-1),
        "noise": draw.integers(0, 256, photos.shape, dtype=np.uint8),
        "blank": np.broadcast_to(colours, photos.shape),
        "textures": textures(count, height, width, draw),
        "rotated_90": np.rot90(photos, axes=(1, 2)),
        "channels_swapped": photos[..., ::-1],
        "blurred": np.stack([cv2.GaussianBlur(image, (0, 0), 1.5) for image in photos]),
    }


def textures(count: int, height: int, width: int, draw: np.random.Generator) -> np.ndarray:
    """Surfaces of two colours, a quarter each of chequers, dots, mosaics and clouds."""
    made = (_chequers, _dots, _mosaic, _clouds)
    images = [_texture(made[n % len(made)], height, width, draw) for n in range(count)]
    return np.stack(images)


def _texture(
    make: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray],
    height: int,
    width: int,
    draw: np.random.Generator,
) -> np.ndarray:
    # At four times the size, in a random direction; reduced by areas, so edges are soft.
    rows, columns = np.mgrid[: 4 * height, : 4 * width] / 4.0
    angle = draw.uniform(0, np.pi)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    share = make(along, across, draw)[..., np.newaxis]
    dark, light = draw.uniform(0, 255, (2, 3))
    full = (dark + share * (light - dark)).astype(np.float32)
    return np.rint(cv2.resize(full, (width, height), interpolation=cv2.INTER_AREA)).astype(np.uint8)


def _chequers(along: np.ndarray, across: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    side = draw.uniform(2.0, 8.0)
    return (np.floor(along / side) + np.floor(across / side)) % 2


def _dots(along: np.ndarray, across: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    side = draw.uniform(4.0, 10.0)
    distance = np.hypot(along % side - side / 2, across % side - side / 2)
    return (distance < side * draw.uniform(0.2, 0.4)).astype(np.float64)


def _mosaic(along: np.ndarray, across: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Shades of the nearest of some random points."""
    points = draw.uniform(-48, 48, (60, 2))
    squares = (along[..., np.newaxis] - points[:, 0]) ** 2
    squares += (across[..., np.newaxis] - points[:, 1]) ** 2
    return draw.random(len(points))[squares.argmin(axis=-1)]


def _clouds(along: np.ndarray, across: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Noise whose amplitude falls with the frequency, from 0 to 1."""
    del across
    shape = along.shape
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, np.newaxis], np.fft.fftfreq(shape[1]))
    spectrum = np.fft.fft2(draw.normal(size=shape)) / np.maximum(frequency, 1 / max(shape)) ** 1.5
    surface = np.fft.ifft2(spectrum).real
    return (surface - surface.min()) / np.ptp(surface)


def known_classes(data: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Divides a set into images of the model's classes and of those held out."""
    is_held_out = np.isin(data.labels, HELD_OUT)
    return data.take(np.flatnonzero(~is_held_out)), data.take(np.flatnonzero(is_held_out))
