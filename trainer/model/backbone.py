"""Defines the encoder body that is a network of `keras.applications`.

`encoders.py` builds it. `trainer/backbone_weights.py` reads the weights that it starts from.
"""

import contextlib
import importlib
import math
from collections.abc import Iterator
from typing import Any, Final

import keras
import tensorflow as tf

from trainer.errors import InputError
from trainer.model.normalization import FusedBatchNorm

_CHANNELS: Final = 3
_MOST_MOMENTUM: Final = 0.98
"""Upper bound of the momentum of batch normalisation. Some networks keep 0.999 of the statistics at
each step, and a fine-tuning of a few hundred steps would end with those of the start."""


def application(name: str, **options: Any) -> keras.Model:
    """Builds a network of `keras.applications` without its classifier, pooled by the average.

    Args:
        name: its name in `keras.applications`.
        **options: further arguments of its function; by default the weights are random.
    """
    build = getattr(keras.applications, name)
    return build(**{"include_top": False, "pooling": "avg", "weights": None, **options})


@keras.saving.register_keras_serializable("vaeline")
class PerChannelConv(keras.layers.Conv2D):
    """Convolves each channel with a filter of its own.

    Keras compiles such a `Conv2D` with XLA, whose convolutions take several times as long on CPUs,
    and which a server may lack.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the convolution, without bias."""
        return tf.nn.depthwise_conv2d(
            inputs, tf.transpose(kernel, [0, 1, 3, 2]), [1, *self.strides, 1], self.padding.upper()
        )


@keras.saving.register_keras_serializable("vaeline")
class WeightedNormalization(keras.layers.Normalization):
    """Normalises channels by the mean and variance that its weights have now.

    Keras's layer computes with a copy, which weights that are set later do not change.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the normalised values."""
        mean = tf.cast(self.adapt_mean, inputs.dtype)
        deviation = tf.sqrt(tf.cast(self.adapt_variance, inputs.dtype))
        return (inputs - mean) / tf.maximum(deviation, keras.config.epsilon())


@keras.saving.register_keras_serializable("vaeline")
class BackboneEncoder(keras.layers.Layer):
    """Encodes images with a network of `keras.applications` and global average pooling.

    Batch normalisation is replaced by `FusedBatchNorm`, whose statistics are those of the global
    batch, and dropout between blocks is left out, because Keras's draws the same noise on every
    replica and is not resumable. The weights are those of Keras's own network, in the same order.

    Args:
        application_name: name of the network in `keras.applications`.
        trained_blocks: how many blocks learn, counted from the end; None: all of them. A block is
            all layers of one resolution.

    Call arguments:
        inputs: float32 [batch, height, width, 1 or 3] in [0, 1].
        training: whether the trained part normalises by batch statistics.
    """

    def __init__(
        self, application_name: str, trained_blocks: int | None = None, **kwargs: Any
    ) -> None:
        # Autocast would round pixels to bfloat16 before the network has scaled them.
        super().__init__(autocast=False, **kwargs)
        self.application_name = application_name
        self.trained_blocks = trained_blocks
        function = getattr(keras.applications, application_name)
        module = importlib.import_module(function.__module__)
        self._preprocess = module.preprocess_input

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the network and its weights for the size of the image.

        Raises:
            InputError: the network has fewer blocks than should learn.
        """
        shape = (*input_shape[1:3], _CHANNELS)
        with _dtype_policy(self.dtype_policy):
            original = application(self.application_name, input_shape=shape)
            self.network = keras.models.clone_model(
                original, clone_function=_adapted, call_function=_without_mask
            )
        self.feature_size = self.network.output.shape[-1]
        self.freeze(whole=False)

    def call(self, inputs: tf.Tensor, *, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns trunk and features, which are the same tensor [batch, channels]."""
        levels = inputs * 255.0
        if inputs.shape[-1] != _CHANNELS:
            levels = tf.repeat(levels, _CHANNELS, axis=-1)
        features = self.network(self._preprocess(levels), training=training)
        return features, features

    def freeze(self, *, whole: bool) -> None:
        """Stops the whole network from learning, or only what the options exclude.

        Layers that do not learn normalise by their moving statistics.
        """
        self.network.trainable = not whole
        if whole or self.trained_blocks is None:
            return
        levels = _levels(self.network)
        found = {n for n, layer in zip(levels, self.network.layers, strict=True) if layer.weights}
        if self.trained_blocks > len(found):
            height, width = self.network.input.shape[1:3]
            raise InputError(
                f"model.backbone.train: {self.application_name} has {len(found)} blocks at "
                f"{height}x{width} pixels, not {self.trained_blocks}; give a lower number, or all"
            )
        learning = sorted(found)[-self.trained_blocks :] if self.trained_blocks else []
        for layer, level in zip(self.network.layers, levels, strict=True):
            layer.trainable = level in learning

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "application_name": self.application_name,
            "trained_blocks": self.trained_blocks,
        }


def _levels(network: keras.Model) -> list[int]:
    """Returns how often each layer's resolution has been halved, in the order of `network.layers`.

    A block is all layers of one level, because the networks have no other unit in common. Padding,
    and convolutions without it, change a size by a few pixels, and squeeze-and-excitation has 1x1
    pixels inside a block, so a layer has the resolution of the largest that follows.
    """
    height = network.input.shape[1]
    levels, rows = [], 1
    for layer in reversed(network.layers):
        shape = layer.output.shape
        rows = max(rows, shape[1]) if len(shape) == 4 else rows
        levels.append(round(math.log2(height / rows)))
    return levels[::-1]


def _adapted(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a new layer of the same settings, or the one that takes its place."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.BatchNormalization):
        return FusedBatchNorm(
            momentum=min(config["momentum"], _MOST_MOMENTUM), epsilon=config["epsilon"],
            activation="linear", scale=config["scale"], name=config["name"],
        )  # fmt: skip
    if isinstance(layer, keras.layers.Dropout):
        config["rate"] = 0.0
    if isinstance(layer, keras.layers.Conv2D) and layer.groups == layer.filters > 1:
        return PerChannelConv.from_config(config)
    if isinstance(layer, keras.layers.Normalization) and layer.weights:
        return WeightedNormalization.from_config(config)
    return type(layer).from_config(config)


def _without_mask(layer: Any, *args: Any, mask: Any = None, **kwargs: Any) -> Any:
    """Calls a layer as in the original network; images have no mask."""
    del mask
    return layer(*args, **kwargs)


@contextlib.contextmanager
def _dtype_policy(policy: keras.DTypePolicy) -> Iterator[None]:
    """Sets the policy of new layers, which `keras.applications` has no argument for."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
