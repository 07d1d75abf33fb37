"""Supports Keras's own `compile`, `fit` and `evaluate` on one device.

It is for users who load a saved model and continue in Keras. The project's own training step,
`step.py`, adds augmentation, warm-ups, unlabelled images, weight averages and several devices.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.optimization import losses
from trainer.optimization.noise import Noise, shape_of
from trainer.optimization.objective import PARTS, Batch, Objective, ScheduledWeights
from trainer.options import ObjectiveConfig, SemiSupervisedConfig


class JointLoss(keras.metrics.Metric):
    """Sum of the mean of one loss over all images and of another over the labelled ones."""

    def __init__(self, name: str = "loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._over_images = keras.metrics.Mean(name="over_images")
        self._over_labelled = keras.metrics.Mean(name="over_labelled")

    def update_state(self, images: tf.Tensor, labelled: tf.Tensor, is_labelled: tf.Tensor) -> None:
        """Adds a batch.

        Args:
            images: float32 [batch], loss of every image.
            labelled: float32 [batch], additional loss of the labelled images.
            is_labelled: float32 [batch], 1 for labelled images, 0 otherwise.
        """
        self._over_images.update_state(images)
        self._over_labelled.update_state(labelled, sample_weight=is_labelled)

    def result(self) -> tf.Tensor:
        """Computes the sum of both means, float32 scalar."""
        return self._over_images.result() + self._over_labelled.result()


class KerasTraining(keras.Model):
    """Base class of `VaeClassifier` that implements `fit` and `evaluate`.

    Data are pairs of pixels, float32 [batch, height, width, channels] in [0, 1], and labels,
    int [batch], where -1 marks a missing label. The metrics are `loss`, `accuracy`,
    `cross_entropy` (nats), `kl` (nats) and `elbo` (nats), which is `conditional_bound` if the
    decoder is conditioned on h. `fit` reports the objective of `objective.py` with its noise;
    `evaluate` reports the measures of `evaluation.Evaluator`.

    Example:
        ```python
        model = keras.saving.load_model("model.keras")
        model.compile(keras.optimizers.Adam(1e-3), objective={"alpha": 2.0})
        model.fit(pixels, labels, epochs=3)
        ```
    """

    def compile(
        self,
        optimizer: Any = "adam",
        *,
        objective: ObjectiveConfig | Mapping[str, Any] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        """Prepares the model for `fit` and `evaluate`.

        Args:
            optimizer: a Keras optimizer or its name.
            objective: section `trainer.objective` of the configuration; the defaults if None. The
                warm-up of beta and the share of clean images have no effect here.
            seed: seed of the noise in training.
            **kwargs: arguments of `keras.Model.compile` except losses and metrics.

        Raises:
            ValueError: losses or metrics are given, or there are several devices.
        """
        given = [name for name in _OF_THE_MODEL if kwargs.get(name) is not None]
        if given:
            raise ValueError(
                f"VaeClassifier.compile: {given[0]} is the model's own; got one. Leave it out, and "
                "weigh the parts of the loss with objective="
            )
        if self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "VaeClassifier.fit trains on one device; got several. Use trainer.train.train"
            )
        self.objective = ObjectiveConfig.model_validate(objective or {})
        self.noise_seed = int(seed)
        self._objective = Objective(self, self.objective, SemiSupervisedConfig())
        # Not in the constructor, so that a model that is only served has no trackers to export.
        self._joint_loss = JointLoss()
        self._means = {name: keras.metrics.Mean(name=name) for name in self._reported}
        super().compile(optimizer=optimizer, **kwargs)

    @property
    def _reported(self) -> tuple[str, ...]:
        bound = "conditional_bound" if self.config.conditioning == "hidden" else "elbo"
        return ("accuracy", "cross_entropy", "kl", bound)

    @property
    def metrics(self) -> list[Any]:
        """Trackers of the loss and its parts; empty before `compile`."""
        return [self._joint_loss, *self._means.values()] if self.compiled else []

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile` for the saved model."""
        if not self.compiled:
            return {}
        own = {"objective": self.objective.model_dump(mode="json"), "seed": self.noise_seed}
        return {**super().get_compile_config(), **own}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model with the saved arguments."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `keras.Model.fit` does; see there for arguments and result.

        Raises:
            ValueError: pixels in an array, also those of `validation_data`, are not in [0, 1].
        """
        _require_unit_range(x, "fit")
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple | list) and validation:
            _require_unit_range(validation[0], "fit(validation_data)")
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does; see there for arguments and result.

        Raises:
            ValueError: pixels in an array are not in [0, 1].
        """
        _require_unit_range(x, "evaluate")
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts as `keras.Model.predict` does; see there for arguments and result.

        Raises:
            ValueError: pixels in an array are not in [0, 1].
        """
        _require_unit_range(x, "predict")
        return super().predict(x, *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Takes one gradient step on the objective of a batch."""
        pixels, labels = _unpack(data)
        schedule = ScheduledWeights(
            beta=tf.constant(self.objective.beta), consistency=tf.constant(0.0)
        )
        noise = Noise(self.noise_seed, self.optimizer.iterations.value)
        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            loss, parts = self._objective(Batch(clean=pixels, labels=labels), noise, schedule)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled,
            [weight.value for weight in weights],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        named = dict(zip(PARTS, tf.unstack(parts), strict=True))
        named["conditional_bound"] = named["elbo"]
        # The objective reports means over the batch, to which an image without a label adds 0.
        images = tf.ones([shape_of(labels)[0]])
        is_labelled = tf.cast(labels >= 0, tf.float32)
        share = tf.maximum(tf.reduce_mean(is_labelled), 1e-12)
        self._joint_loss.update_state(loss * images, 0.0 * images, images)
        self._track(
            {
                **{name: named[name] * images for name in self._reported[2:]},
                **{name: named[name] / share * images for name in self._reported[:2]},
            },
            is_labelled,
        )
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Evaluates one batch without noise, as `evaluation.Evaluator` does."""
        pixels, labels = _unpack(data)
        results = self.measure(pixels)
        kl, bound = self._reported[2:]
        cross_entropy = losses.cross_entropy(labels, results["logits"])
        is_labelled = tf.cast(labels >= 0, tf.float32)
        right = tf.argmax(results["logits"], axis=-1, output_type=tf.int32) == labels
        weights = self.objective
        penalised = results[bound] + (1.0 - weights.beta) * results[kl]
        self._joint_loss.update_state(
            -weights.generative_weight * penalised / self.dimensions,
            weights.alpha * cross_entropy,
            is_labelled,
        )
        self._track(
            {
                "accuracy": tf.cast(right, tf.float32),
                "cross_entropy": cross_entropy,
                kl: results[kl],
                bound: results[bound],
            },
            is_labelled,
        )
        return self.get_metrics_result()

    def _track(self, values: dict[str, tf.Tensor], is_labelled: tf.Tensor) -> None:
        for name, value in values.items():
            weight = is_labelled if name in _OF_LABELS else None
            self._means[name].update_state(value, sample_weight=weight)


_OF_THE_MODEL = ("loss", "loss_weights", "metrics", "weighted_metrics")
_OF_LABELS = ("accuracy", "cross_entropy")


_OUTSIDE = 0.5
"""Distance from [0, 1] that no resized pixel has, but levels and standardised pixels have."""


def _require_unit_range(pixels: Any, method: str) -> None:
    """Raises for an array of pixels in another range; what streams is not looked at."""
    if not isinstance(pixels, np.ndarray | tf.Tensor) or not np.size(pixels):
        return
    low, high = float(np.min(pixels)), float(np.max(pixels))
    if low < -_OUTSIDE or high > 1.0 + _OUTSIDE:
        raise ValueError(
            f"VaeClassifier.{method}: expected pixels in [0, 1]; got {low:.4g} to {high:.4g}."
            " Divide levels of 0 to 255 by 255"
        )


def _unpack(data: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Unpacks pixels and int32 labels from the data that `fit` or `evaluate` passes."""
    pixels, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        raise ValueError("VaeClassifier takes no sample weights; got some. Leave them out")
    pixels = tf.cast(pixels, tf.float32)
    if labels is None:
        return pixels, tf.fill([tf.shape(pixels)[0]], -1)
    return pixels, tf.reshape(tf.cast(labels, tf.int32), [-1])
