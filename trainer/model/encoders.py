"""Defines the encoder bodies, which map images to features; `model.py` builds the configured one.

A body returns two tensors: `trunk`, which the posterior head reads, and `features` (h), which the
classifier, the neighbour search and the `hidden` decoder read. For `mlp` and a backbone they are
the same.
"""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from trainer.config import ModelConfig
from trainer.model.backbone import BackboneEncoder
from trainer.model.normalization import FusedBatchNorm

_LEAST_SIDE = 4
"""Largest side of the grid at which the convolutional trunk ends, in cells."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The encoder's output for a batch, all float32.

    Attributes:
        mean: [batch, d], the posterior mean mu.
        log_variance: [batch, d], the posterior log variance, clipped.
        features: [batch, m], the features h.
    """

    mean: tf.Tensor
    log_variance: tf.Tensor
    features: tf.Tensor

    def latent(self, noise: tf.Tensor) -> tf.Tensor:
        """Samples z = mu + sigma * noise; `noise` is [..., batch or 1, d]."""
        return self.mean + tf.exp(0.5 * self.log_variance) * noise

    def part(self, rows: slice) -> "Encoded":
        """Returns some images of the batch."""
        return Encoded(self.mean[rows], self.log_variance[rows], self.features[rows])


def grid_sides(height: int, width: int) -> list[tuple[int, int]]:
    """Returns the grid sizes of the convolutional bodies, from half resolution to about 4x4.

    The sides of every grid are half those of the previous one, rounded up.
    """
    sides = [(-(-height // 2), -(-width // 2))]
    while max(sides[-1]) > _LEAST_SIDE:
        rows, columns = sides[-1]
        sides.append((-(-rows // 2), -(-columns // 2)))
    return sides


def grid_channels(width: int, levels: int) -> list[int]:
    """Returns the channels of each grid, which double from `width` up to eight times `width`."""
    return [width * min(2 ** min(level, 3), 8) for level in range(levels)]


def pad_to(images: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Pads images [batch, h, w, c] with zeros at the bottom and the right to the given size."""
    rows, columns = height - images.shape[1], width - images.shape[2]
    if rows == 0 and columns == 0:
        return images
    return tf.pad(images, [[0, 0], [0, rows], [0, columns], [0, 0]])


@keras.saving.register_keras_serializable("vaeline")
class ConvUnit(keras.layers.Layer):
    """Applies a 3x3 convolution, batch normalisation and ReLU, optionally with a skip connection.

    Args:
        channels: number of output channels.
        strides: 1 or 2.
        residual: whether to add the input to the output, which needs equal shapes.
        normalise: whether to apply batch normalisation; otherwise the convolution has a bias.
    """

    def __init__(
        self,
        channels: int,
        *,
        strides: int = 1,
        residual: bool = False,
        normalise: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.normalise = normalise
        self.channels = channels
        self.strides = strides
        self.residual = residual
        self.convolution = keras.layers.Conv2D(
            channels, 3, strides=strides, padding="same", use_bias=not normalise,
            kernel_initializer="he_normal", dtype=self.dtype_policy,
        )  # fmt: skip
        self.norm = FusedBatchNorm() if normalise else None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights."""
        self.convolution.build(input_shape)
        if self.norm is not None:
            self.norm.build((None, None, None, self.channels))

    def call(self, inputs: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """Maps [batch, h, w, c] to [batch, h / strides, w / strides, channels]."""
        outputs = self.convolution(inputs)
        if self.norm is not None:
            outputs = self.norm(outputs, training=training)
        else:
            outputs = tf.nn.relu(outputs)
        return inputs + outputs if self.residual else outputs

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "strides": self.strides,
            "residual": self.residual,
            "normalise": self.normalise,
        }


@keras.saving.register_keras_serializable("vaeline")
class MlpEncoder(keras.layers.Layer):
    """Encodes flattened images with dense ReLU layers.

    Args:
        hidden: widths of the layers; the last one is the size of h.

    Call arguments:
        inputs: float [batch, height, width, channels], normalised pixels.
    """

    def __init__(self, hidden: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = tuple(hidden)
        self.layers = [
            keras.layers.Dense(width, activation="relu", kernel_initializer="he_normal",
                               dtype=self.dtype_policy)
            for width in self.hidden
        ]  # fmt: skip
        self.feature_size = self.hidden[-1]

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the weights."""
        size = input_shape[1] * input_shape[2] * input_shape[3]
        for layer in self.layers:
            layer.build((None, size))
            size = layer.units

    def call(self, inputs: tf.Tensor, *, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns trunk and features, which are the same tensor [batch, hidden[-1]]."""
        del training  # Nothing here differs between training and evaluation.
        size = inputs.shape[1] * inputs.shape[2] * inputs.shape[3]
        values = tf.reshape(inputs, [-1, size])
        for layer in self.layers:
            values = layer(values)
        return values, values

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "hidden": self.hidden}


@keras.saving.register_keras_serializable("vaeline")
class ConvEncoder(keras.layers.Layer):
    """Encodes images by space-to-depth, then 3x3 residual blocks on successively halved grids.

    Convolutions with many channels at full resolution would dominate the time on CPUs, so the
    first grid has half the resolution and four times the channels.

    Args:
        width: channels on the first grid; they double on each grid, up to eightfold.
        blocks: number of residual blocks per grid.
        feature_size: size of h.

    Call arguments:
        inputs: float [batch, height, width, channels], normalised pixels.
        training: whether to normalise by batch statistics.
    """

    def __init__(self, width: int, blocks: int, feature_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.blocks = blocks
        self.feature_size = feature_size

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the layers for the size of the image, and their weights."""
        sides = grid_sides(input_shape[1], input_shape[2])
        channels = grid_channels(self.width, len(sides))
        self.first_sides = (2 * sides[0][0], 2 * sides[0][1])
        self.units: list[ConvUnit] = []
        previous = 4 * input_shape[3]
        for level, outputs in enumerate(channels):
            strides = 1 if level == 0 else 2
            self._add(ConvUnit(outputs, strides=strides, dtype=self.dtype_policy), previous)
            # The last grid is small: a block there would cost little time but many weights.
            for _ in range(self.blocks if level < len(channels) - 1 else 0):
                self._add(ConvUnit(outputs, residual=True, dtype=self.dtype_policy), outputs)
            previous = outputs
        trunk_size = sides[-1][0] * sides[-1][1] * previous
        self.dense = keras.layers.Dense(
            self.feature_size, use_bias=False, kernel_initializer="he_normal",
            dtype=self.dtype_policy,
        )  # fmt: skip
        self.dense.build((None, trunk_size))
        self.norm = FusedBatchNorm()
        self.norm.build((None, self.feature_size))
        self.trunk_size = trunk_size

    def _add(self, unit: ConvUnit, channels: int) -> None:
        unit.build((None, None, None, channels))
        self.units.append(unit)

    def call(self, inputs: tf.Tensor, *, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the trunk [batch, cells * channels] and features [batch, feature_size]."""
        values = tf.nn.space_to_depth(pad_to(inputs, *self.first_sides), 2)
        values = tf.cast(values, self.compute_dtype)
        for unit in self.units:
            values = unit(values, training=training)
        trunk = tf.reshape(values, [-1, self.trunk_size])
        return trunk, self.norm(self.dense(trunk), training=training)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "width": self.width,
            "blocks": self.blocks,
            "feature_size": self.feature_size,
        }


def build_encoder(config: ModelConfig, dtype: str) -> keras.layers.Layer:
    """Builds the configured encoder body.

    Args:
        config: the model's options.
        dtype: Keras dtype policy of the body's arithmetic.
    """
    if config.encoder == "mlp":
        return MlpEncoder(config.hidden, dtype=dtype, name="encoder")
    if config.encoder == "backbone":
        options = config.backbone
        return BackboneEncoder(options.name, options.trained_blocks, dtype=dtype, name="encoder")
    return ConvEncoder(
        config.conv_width, config.conv_blocks, config.feature_size, dtype=dtype, name="encoder"
    )
