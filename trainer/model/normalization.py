"""Implements batch normalisation with TensorFlow's fused op.

Keras 3's BatchNormalization consists of elementwise ops and is three times slower on CPUs, where it
would be the largest cost of a small convolutional network. The encoders use this layer, and
`backbone.py` puts it into the networks of `keras.applications`.
"""

from typing import Any

import keras
import tensorflow as tf

from trainer.optimization.synchronisation import has_own_variables, replica_count, replica_mean


@keras.saving.register_keras_serializable("vaeline")
class FusedBatchNorm(keras.layers.Layer):
    """Normalises each channel over the batch, with float32 statistics for any input dtype.

    With several replicas, or a batch in parts, the statistics are those of the global batch, so two
    replicas compute the same gradients as one. They come from a formula then; one device uses
    TensorFlow's kernel, which is faster and rounds differently.

    Args:
        momentum: share of the previous moving statistics that a training step keeps.
        epsilon: added to the variance.
        activation: `relu` or `linear`.
        scale: whether there is a trained scale; otherwise it is 1.

    Call arguments:
        inputs: [batch, channels] or [batch, height, width, channels].
        training: whether to use the statistics of the batch and update the moving ones; without
            effect if the layer is not trainable, as in Keras.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.98,
        epsilon: float = 1e-3,
        activation: str = "relu",
        scale: bool = True,
        **kwargs: Any,
    ) -> None:
        # Autocast would round the statistics to bfloat16.
        super().__init__(autocast=False, **{**kwargs, "dtype": "float32"})
        self.momentum = momentum
        self.epsilon = epsilon
        self.activation = activation
        self.scale = scale

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates scale, offset and the moving statistics, [channels] each."""
        shape = (input_shape[-1],)
        self.gamma = None
        if self.scale:
            self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")
        # Replicas compute equal statistics; aggregating by the mean keeps their copies equal.
        self.moving_mean = self.add_weight(
            shape=shape, initializer="zeros", name="moving_mean", trainable=False,
            aggregation="mean",
        )  # fmt: skip
        self.moving_variance = self.add_weight(
            shape=shape, initializer="ones", name="moving_variance", trainable=False,
            aggregation="mean",
        )  # fmt: skip

    def call(self, inputs: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """Returns the normalised inputs, with the same shape and dtype."""
        flat = len(inputs.shape) == 2
        values = inputs[:, tf.newaxis, tf.newaxis, :] if flat else inputs
        if not (training and self.trainable):
            outputs = self._apply(values, self.moving_mean.value, self.moving_variance.value)
        elif replica_count() == 1:
            outputs, mean, variance = self._fused(values)
            self._update(mean, variance)
        else:
            outputs, mean, variance = self._synchronised(values)
            self._update(mean, variance)
        outputs = tf.nn.relu(outputs) if self.activation == "relu" else outputs
        return outputs[:, 0, 0, :] if flat else outputs

    def _scale(self) -> tf.Tensor:
        return tf.ones_like(self.beta.value) if self.gamma is None else self.gamma.value

    def _fused(self, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=values,
            scale=self._scale(),
            offset=self.beta.value,
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        return outputs, mean, variance

    def _synchronised(self, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        full = tf.cast(values, tf.float32)
        # Two passes: the mean of squares minus the squared mean would lose precision.
        mean = _global_mean(full)
        variance = _global_mean(tf.square(full - mean))
        outputs = self._apply(values, mean, variance)
        # The fused op reports the unbiased variance.
        count = tf.cast(tf.size(full) // tf.size(mean) * replica_count(), tf.float32)
        return outputs, mean, variance * count / tf.maximum(count - 1.0, 1.0)

    def _apply(self, values: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        scale = self._scale() * tf.math.rsqrt(variance + self.epsilon)
        offset = self.beta.value - mean * scale
        return values * tf.cast(scale, values.dtype) + tf.cast(offset, values.dtype)

    def _update(self, mean: tf.Tensor, variance: tf.Tensor) -> None:
        if not has_own_variables():
            return
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            batch = tf.stop_gradient(batch)
            moving.assign(moving.value * self.momentum + batch * (1.0 - self.momentum))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "activation": self.activation,
            "scale": self.scale,
        }


def _global_mean(values: tf.Tensor) -> tf.Tensor:
    """Computes the mean of each channel over the images of all replicas, float32 [channels].

    Each image is summed separately, and the images are added in float64, so that the result does
    not depend on the assignment of images to replicas. A rounding error here reaches every
    activation and moves those near 0 across the kink of a ReLU.
    """
    images = tf.cast(tf.reduce_mean(values, (1, 2)), tf.float64)
    return tf.cast(replica_mean(tf.reduce_mean(images, 0)), tf.float32)
