"""Defines the decoders, which map latent vectors to the parameters of the observation model."""

from typing import Any

import keras
import tensorflow as tf

from trainer.config import ModelConfig
from trainer.model.encoders import ConvUnit, grid_channels, grid_sides


def _small() -> keras.initializers.Initializer:
    # An untrained decoder predicts grey. With a narrow density far from the image, the loss would
    # start in the millions.
    return keras.initializers.RandomNormal(stddev=0.01)


@keras.saving.register_keras_serializable("vaeline")
class MlpDecoder(keras.layers.Layer):
    """Decodes with dense ReLU layers, then one dense layer to all pixels.

    Args:
        image_shape: (height, width, channels) of the output.
        hidden: widths of the layers.

    Call arguments:
        inputs: float [batch, size]: z, concatenated with h or the class if conditioned on it.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], hidden: tuple[int, ...], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.image_shape = tuple(image_shape)
        self.hidden = tuple(hidden)
        self.layers = [
            keras.layers.Dense(width, activation="relu", kernel_initializer="he_normal",
                               dtype=self.dtype_policy)
            for width in self.hidden
        ]  # fmt: skip
        height, width, channels = self.image_shape
        self.outputs = keras.layers.Dense(
            height * width * channels, kernel_initializer=_small(), dtype=self.dtype_policy
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights."""
        size = input_shape[-1]
        for layer in [*self.layers, self.outputs]:
            layer.build((None, size))
            size = layer.units

    def call(self, inputs: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """Computes the raw output, float32 [batch, height, width, channels]."""
        del training  # Nothing here differs between training and evaluation.
        values = inputs
        for layer in self.layers:
            values = layer(values)
        raw = tf.cast(self.outputs(values), tf.float32)
        return tf.reshape(raw, [-1, *self.image_shape])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "hidden": self.hidden,
        }


@keras.saving.register_keras_serializable("vaeline")
class ConvDecoder(keras.layers.Layer):
    """Decodes by a dense layer to a small grid, then residual blocks on successively doubled grids.

    It mirrors `ConvEncoder`. Upsampling is a convolution and depth-to-space, which avoids the
    checkerboard artefacts of transposed convolutions.

    Args:
        image_shape: (height, width, channels) of the output.
        width: channels on the grid of half resolution.
        blocks: number of residual blocks per grid.

    Call arguments:
        inputs: float [batch, size]: z, concatenated with h or the class if conditioned on it.
        training: has no effect, because the decoder has no normalisation.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], width: int, blocks: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.image_shape = tuple(image_shape)
        self.width = width
        self.blocks = blocks

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the layers and their weights."""
        height, width, channels = self.image_shape
        self.sides = grid_sides(height, width)[::-1]
        self.channels = grid_channels(self.width, len(self.sides))[::-1]
        rows, columns = self.sides[0]
        self.dense = keras.layers.Dense(
            rows * columns * self.channels[0], activation="relu",
            kernel_initializer="he_normal", dtype=self.dtype_policy,
        )  # fmt: skip
        self.dense.build(input_shape)
        self.grids: list[list[ConvUnit]] = []
        for level, outputs in enumerate(self.channels):
            units = [
                self._unit(outputs, residual=True) for _ in range(self.blocks if level > 0 else 0)
            ]
            if level + 1 < len(self.channels):
                units.append(self._unit(4 * self.channels[level + 1]))
            for unit in units:
                unit.build((None, None, None, outputs))
            self.grids.append(units)
        self.outputs = keras.layers.Conv2D(
            4 * channels, 3, padding="same", kernel_initializer=_small(),
            dtype=self.dtype_policy,
        )  # fmt: skip
        self.outputs.build((None, None, None, self.channels[-1]))

    def _unit(self, channels: int, *, residual: bool = False) -> ConvUnit:
        # No normalisation: when classes are summed out, a batch holds every image once per class,
        # and its statistics differ from those at evaluation.
        return ConvUnit(channels, residual=residual, normalise=False, dtype=self.dtype_policy)

    def call(self, inputs: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """Computes the raw output, float32 [batch, height, width, channels]."""
        del training  # Nothing here differs between training and evaluation.
        rows, columns = self.sides[0]
        values = tf.reshape(self.dense(inputs), [-1, rows, columns, self.channels[0]])
        for level, units in enumerate(self.grids):
            for unit in units:
                values = unit(values)
            if level + 1 < len(self.sides):
                rows, columns = self.sides[level + 1]
                values = tf.nn.depth_to_space(values, 2)[:, :rows, :columns, :]
        raw = tf.nn.depth_to_space(self.outputs(values), 2)
        height, width, _ = self.image_shape
        return tf.cast(raw[:, :height, :width, :], tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "width": self.width,
            "blocks": self.blocks,
        }


def build_decoder(
    config: ModelConfig, image_shape: tuple[int, int, int], parameters: int, dtype: str
) -> keras.layers.Layer:
    """Builds the configured decoder.

    Args:
        config: the model's options.
        image_shape: (height, width, channels) of the images.
        parameters: number of raw values per pixel value that the observation model needs.
        dtype: Keras dtype policy of the decoder's arithmetic.

    Returns:
        The decoder. With `decoder_scale` its output has that fraction of the size, rounded up.
    """
    height, width, channels = image_shape
    scale = config.decoder_scale
    shape = (-(-height // scale), -(-width // scale), channels * parameters)
    if config.decoder_kind == "mlp":
        return MlpDecoder(shape, config.decoder_hidden, dtype=dtype, name="decoder")
    return ConvDecoder(shape, config.conv_width, config.conv_blocks, dtype=dtype, name="decoder")
