"""Augments a batch of images on the device, inside the compiled training step.

`step.py` calls it on the images that the classifier learns from. All randomness comes from
`noise.Noise`. The geometric changes form a single warp with one interpolation.
"""

import math

import tensorflow as tf

from trainer.optimization.noise import Noise
from trainer.options import AugmentationConfig

_FILL_MODES = {"black": "CONSTANT", "edge": "NEAREST", "reflect": "REFLECT"}


def _symmetric(noise: Noise, stream: str, batch: int, bound: float) -> tf.Tensor:
    """Draws uniform noise in [-bound, bound), float32 [batch]."""
    return (noise.uniform(stream, [batch]) * 2.0 - 1.0) * bound


def _warp(images: tf.Tensor, config: AugmentationConfig, noise: Noise, view: str) -> tf.Tensor:
    """Applies rotation, zoom, shear, shift and flip about the centre as one projective transform.

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
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.constant([height, width]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=_FILL_MODES[config.fill],
    )


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
    images: tf.Tensor, config: AugmentationConfig, noise: Noise, *, view: str = "view"
) -> tf.Tensor:
    """Augments images at random.

    Args:
        images: float32 [batch, height, width, channels] in [0, 1], static shape.
        config: bounds of the changes.
        noise: the noise of this step.
        view: name of the noise stream; two views of one batch need two names.

    Returns:
        float32 of the same shape, in [0, 1].
    """
    if config.warps:
        images = _warp(images, config, noise, view)
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
