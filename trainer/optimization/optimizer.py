"""Implements Adam with its schedule, gradient clipping and the moving average of the weights.

`step.py` calls it. The updates use TensorFlow's fused kernels: Keras 3 implements Adam as a dozen
elementwise ops per weight, which take a third of a small network's step on a CPU.
"""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer.options import OptimizerConfig


def learning_rate(
    config: OptimizerConfig, step: tf.Tensor, *, total_steps: int, steps_per_epoch: float
) -> tf.Tensor:
    """Computes the learning rate of a step: linear warm-up, then constant or cosine.

    Args:
        config: the optimiser's options.
        step: int32 scalar, 0-based.
        total_steps: number of steps of the whole training.
        steps_per_epoch: steps in one pass over the train split.

    Returns:
        float32 scalar.
    """
    done = tf.cast(step, tf.float32)
    warmup = config.warmup_epochs * steps_per_epoch
    rate = tf.constant(config.learning_rate)
    if config.schedule == "cosine":
        progress = (done - warmup) / max(total_steps - warmup, 1.0)
        cosine = 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(progress, 0.0, 1.0)))
        rate *= config.final_share + (1.0 - config.final_share) * cosine
    if warmup > 0:
        rate *= tf.minimum(1.0, (done + 1.0) / warmup)
    return rate


def clip(
    config: OptimizerConfig, gradients: Sequence[tf.Tensor]
) -> tuple[Sequence[tf.Tensor], tf.Tensor]:
    """Clips gradients by their global norm, if that is configured.

    Returns:
        The gradients, and their global norm before clipping, float32 scalar.
    """
    norm = tf.linalg.global_norm(gradients)
    if config.clip_norm:
        gradients, _ = tf.clip_by_global_norm(gradients, config.clip_norm, use_norm=norm)
    return gradients, norm


class Adam:
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019).

    Create it in the strategy's scope. It takes its step count from the caller, so its only state
    is the moments.

    Args:
        config: the optimiser's options.
        variables: TensorFlow variables to train.
        relative_rate: factor of the learning rate.
        first_step: number of the first step that changes these variables.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        variables: Sequence[Any],
        *,
        relative_rate: float = 1.0,
        first_step: int = 0,
    ) -> None:
        self._config = config
        self._relative_rate = relative_rate
        self.first_step = first_step
        self.variables = list(variables)
        self.moments = [
            (
                tf.Variable(tf.zeros(v.shape), trainable=False, name=f"m_{i}"),
                tf.Variable(tf.zeros(v.shape), trainable=False, name=f"v_{i}"),
            )
            for i, v in enumerate(self.variables)
        ]

    def apply(self, gradients: Sequence[tf.Tensor], step: tf.Tensor, rate: tf.Tensor) -> None:
        """Updates the variables with gradients that are already summed over replicas.

        Args:
            gradients: one per variable.
            step: int32 scalar, 0-based.
            rate: float32 scalar, the learning rate.
        """
        # Bias correction counts the updates of these variables, not the steps of the run.
        count = tf.cast(step - self.first_step, tf.float32) + 1.0
        powers = tf.pow(self._config.beta_1, count), tf.pow(self._config.beta_2, count)
        replica = tf.distribute.get_replica_context()
        replica.merge_call(
            self._update_all, args=(list(gradients), *powers, rate * self._relative_rate)
        )

    def _update_all(
        self,
        strategy: Any,
        gradients: list[Any],
        power_1: Any,
        power_2: Any,
        rate: Any,
    ) -> None:
        for variable, (m, v), gradient in zip(self.variables, self.moments, gradients, strict=True):
            strategy.extended.update(
                variable, self._update_one, args=(m, v, gradient, power_1, power_2, rate)
            )

    def _update_one(
        self,
        variable: Any,
        m: Any,
        v: Any,
        gradient: tf.Tensor,
        power_1: tf.Tensor,
        power_2: tf.Tensor,
        rate: tf.Tensor,
    ) -> None:
        config = self._config
        # Kernels only: decay of biases and normalisation would pull outputs towards 0.
        if config.weight_decay and len(variable.shape) > 1:
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle, alpha=rate * config.weight_decay, delta=variable.read_value()
            )
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=rate,
            beta1=config.beta_1,
            beta2=config.beta_2,
            epsilon=config.epsilon,
            grad=gradient,
        )


def update_average(
    strategy: Any, average: Sequence[Any], variables: Sequence[Any], keep: tf.Tensor
) -> None:
    """Sets average = keep * average + (1 - keep) * variable, in the cross-replica context.

    Args:
        strategy: the distribution strategy.
        average: the variables of the moving average.
        variables: the trained variables, in the same order.
        keep: float32 scalar, the share of the previous average to keep.
    """

    def move(target: Any, source: tf.Tensor, share: tf.Tensor) -> None:
        value = target.read_value()
        target.assign(value + share * (source - value))

    for target, source in zip(average, variables, strict=True):
        strategy.extended.update(target, move, args=(source, 1.0 - keep))
