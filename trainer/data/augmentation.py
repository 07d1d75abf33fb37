"""Augments a batch of images on the device, inside the compiled training step.

`step.py` calls it on the images that the classifier learns from. All randomness comes from
`noise.Noise`. The geometric changes form a single warp with one interpolation.
"""

import math

import numpy as np
import tensorflow as tf

from trainer.optimization.noise import Noise
from trainer.options import AugmentationConfig

_ELASTIC_NODES = 5
"""Nodes per side of the grid that an elastic change moves."""
_FILL_MODES = {"black": "CONSTANT", "edge": "NEAREST", "reflect": "REFLECT"}


def _symmetric(noise: Noise, stream: str, batch: int, bound: float) -> tf.Tensor:
    """Draws uniform noise in [-bound, bound), float32 [batch]."""
    return (noise.uniform(stream, [batch]) * 2.0 - 1.0) * bound


def _warp(
    images: tf.Tensor,
    config: AugmentationConfig,
    noise: Noise,
    view: str,
    elastic_share: tf.Tensor | float,
) -> tf.Tensor:
    """Applies rotation, zoom, shear, shift and flip about the centre, and elastic, as one warp.

    Output pixel (x, y) is read from the input at M (x - centre) + centre + shift.
    """
    batch, height, width, _ = images.shape
    angle = _symmetric(noise, f"{view}/rotation", batch, math.radians(config.rotation))
    zoom_x = tf.exp(_symmetric(noise, f"{view}/zoom_x", batch, config.zoom))
    zoom_y = tf.exp(_symmetric(noise, f"{view}/zoom_y", batch, config.zoom))
    shear = _symmetric(noise, f"{view}/shear", batch, config.shear)
    shift_x = _symmetric(noise, f"{view}/shift_x", batch, config.shift * width)
    shift_y = _symmetric(noise, f"{view}/shift_y", batch, config.shift * height)
    if config.horizontal_flip:
        zoom_x = tf.where(noise.uniform(f"{view}/flip", [batch]) < 0.5, -zoom_x, zoom_x)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    a, b = zoom_x * cosine, zoom_x * (shear * cosine - sine)
    c, d = zoom_y * sine, zoom_y * (shear * sine + cosine)
    x, y = (width - 1) / 2.0, (height - 1) / 2.0
    zeros = tf.zeros([batch])
    transforms = tf.stack(
        [a, b, x + shift_x - a * x - b * y, c, d, y + shift_y - c * x - d * y, zeros, zeros],
        axis=1,
    )
    if config.elastic:
        bound = config.elastic * elastic_share
        bent = _bent_places(transforms, height, width, bound, noise, view)
        return _read(images, *(_folded(at, side, config.fill) for at, side in bent))
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.constant([height, width]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=_FILL_MODES[config.fill],
    )


def _bent_places(
    transforms: tf.Tensor,
    height: int,
    width: int,
    bound: tf.Tensor | float,
    noise: Noise,
    view: str,
) -> list[tuple[tf.Tensor, int]]:
    """Computes where each output pixel is read from: a transform, and a smooth displacement.

    The nodes of a coarse grid move at random, and cubic interpolation moves what is between them.

    Returns:
        Rows and columns, float32 [batch, height, width] in pixels, each with the side's length.
    """
    y, x = tf.meshgrid(tf.range(height * 1.0), tf.range(width * 1.0), indexing="ij")
    m = transforms[:, :, tf.newaxis, tf.newaxis]
    nodes = [transforms.shape[0], _ELASTIC_NODES, _ELASTIC_NODES, 2]
    moved = (noise.uniform(f"{view}/elastic", nodes) * 2.0 - 1.0) * bound
    # A product for each side, because XLA has no cubic `tf.image.resize`.
    moved = tf.einsum("hn,bnmk,wm->bhwk", _node_weights(height), moved, _node_weights(width))
    rows = m[:, 3] * x + m[:, 4] * y + m[:, 5] + moved[..., 0] * height
    columns = m[:, 0] * x + m[:, 1] * y + m[:, 2] + moved[..., 1] * width
    return [(rows, height), (columns, width)]


def _node_weights(side: int) -> np.ndarray:
    """Computes the weight of each node in each place by cubic interpolation, [side, nodes]."""
    with tf.init_scope():
        single = tf.eye(_ELASTIC_NODES)[tf.newaxis, :, :, tf.newaxis]
        return tf.image.resize(single, [side, _ELASTIC_NODES], "bicubic")[0, ..., 0].numpy()


def _folded(places: tf.Tensor, side: int, fill: str) -> tf.Tensor:
    """Maps places beyond the border to what is shown there; -1 and `side` are black."""
    if fill == "reflect":
        folded = tf.math.floormod(places + 0.5, 2.0 * side)
        places = tf.minimum(folded, 2.0 * side - folded) - 0.5
    outside = 1.0 if fill == "black" else 0.0
    return tf.clip_by_value(places, -outside, side - 1.0 + outside)


def _read(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Reads images at places between their pixels, bilinearly, with black around them."""
    batch, height, width, channels = images.shape
    # Two more at the end, because the pixels after the last place are read too.
    flat = tf.reshape(tf.pad(images, [[0, 0], [1, 2], [1, 2], [0, 0]]), [-1, channels])
    stride = width + 3
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = (rows - top)[..., tf.newaxis], (columns - left)[..., tf.newaxis]
    first = tf.range(batch)[:, tf.newaxis, tf.newaxis] * ((height + 3) * stride)
    corner = first + (tf.cast(top, tf.int32) + 1) * stride + tf.cast(left, tf.int32) + 1
    near, far = (
        tf.gather(flat, corner + row) * (1.0 - right) + tf.gather(flat, corner + row + 1) * right
        for row in (0, stride)
    )
    return near * (1.0 - down) + far * down


def _thicken(images: tf.Tensor, share: float, noise: Noise, view: str) -> tf.Tensor:
    """Blends a share of the images with their 3x3 maximum (bright parts grow) or minimum."""
    batch = images.shape[0]
    largest = tf.nn.max_pool2d(images, 3, 1, "SAME")
    smallest = -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    chosen = tf.reshape(noise.uniform(f"{view}/thickness", [batch]), [-1, 1, 1, 1])
    strength = tf.reshape(noise.uniform(f"{view}/thickness_strength", [batch]), [-1, 1, 1, 1])
    thick = images + strength * (largest - images)
    # At full strength, thin strokes would vanish.
    thin = images + 0.6 * strength * (smallest - images)
    changed = tf.where(chosen < 0.5 * share, thick, thin)
    return tf.where(chosen < share, changed, images)


def _cut_out(images: tf.Tensor, side: float, noise: Noise, view: str) -> tf.Tensor:
    """Replaces a square at a random position in each image with the image's mean colour."""
    batch, height, width, _ = images.shape
    rows, columns = tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32)
    row = noise.uniform(f"{view}/cut_row", [batch, 1, 1, 1]) * height
    column = noise.uniform(f"{view}/cut_column", [batch, 1, 1, 1]) * width
    inside = (tf.abs(rows[:, tf.newaxis, tf.newaxis] - row) < 0.5 * side * height) & (
        tf.abs(columns[:, tf.newaxis] - column) < 0.5 * side * width
    )
    return tf.where(inside, tf.reduce_mean(images, axis=(1, 2), keepdims=True), images)


def augment(
    images: tf.Tensor,
    config: AugmentationConfig,
    noise: Noise,
    *,
    view: str = "view",
    elastic_share: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """Augments images at random.

    Args:
        images: float32 [batch, height, width, channels] in [0, 1], static shape.
        config: bounds of the changes.
        noise: the noise of this step.
        view: name of the noise stream; two views of one batch need two names.
        elastic_share: how much of `config.elastic` counts at this step, between 0 and 1.

    Returns:
        float32 of the same shape, in [0, 1].
    """
    if config.warps:
        images = _warp(images, config, noise, view, elastic_share)
    if config.thickness:
        images = _thicken(images, config.thickness, noise, view)
    if config.contrast or config.brightness:
        shape = [images.shape[0], 1, 1, 1]
        contrast = 1.0 + (noise.uniform(f"{view}/contrast", shape) * 2.0 - 1.0) * config.contrast
        brightness = (noise.uniform(f"{view}/brightness", shape) * 2.0 - 1.0) * config.brightness
        mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
        images = tf.clip_by_value((images - mean) * contrast + mean + brightness, 0.0, 1.0)
    if config.cutout:
        images = _cut_out(images, config.cutout, noise, view)
    return images
