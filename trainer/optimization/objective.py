"""Computes the training loss of one step on one replica from its streams of images.

`step.py` calls it. There are two streams: the ELBO uses clean images, the classifier augmented
ones. Sums over images are divided by the global batch size, so the losses and gradients of the
replicas add up to those of a single device.
"""

import dataclasses
from typing import Final, Protocol

import tensorflow as tf

from trainer.config import ModelConfig
from trainer.model.encoders import Encoded
from trainer.model.observations import ObservationModel
from trainer.optimization import losses
from trainer.optimization.noise import Noise, shape_of
from trainer.optimization.synchronisation import replica_mean
from trainer.options import ObjectiveConfig, SemiSupervisedConfig

PARTS: Final = (
    "loss",
    "elbo",
    "reconstruction",
    "kl",
    "cross_entropy",
    "accuracy",
    "unlabelled_elbo",
    "consistency",
    "mutual_information",
    "teaching",
)
"""Values that a step reports. `reconstruction` is -E log p(x|z); bounds and parts are in nats per
image."""


class JointModel(Protocol):
    """The interface that the objective needs; `model.VaeClassifier` implements it."""

    config: ModelConfig
    num_classes: int
    dimensions: int
    observation: ObservationModel

    @property
    def label_cost(self) -> float:
        """-log p(y) of a uniform class, in nats; 0 if the decoder is not given the class."""

    def encode(self, pixels: tf.Tensor, *, training: bool = False) -> Encoded:
        """Computes the posterior and the features."""

    def classify(self, encoded: Encoded, features: tf.Tensor | None = None) -> tf.Tensor:
        """Computes the logits, float32 [batch, K]."""

    def decode(
        self, latent: tf.Tensor, beside: tf.Tensor | None = None, *, training: bool = False
    ) -> tf.Tensor:
        """Computes the raw parameters of the observation model."""

    def beside_latent(self, encoded: Encoded, labels: tf.Tensor) -> tf.Tensor | None:
        """Returns the decoder's conditioning input; None if there is none."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """One replica's share of a step's images, float32 [batch, h, w, c] in [0, 1].

    Attributes:
        clean: images without augmentation.
        labels: int32 [batch]; -1 marks a missing label.
        augmented: images that the classifier learns from; None: the clean ones.
        unlabelled: clean images without labels; None if there is no such stream.
        weak: weakly augmented views of the unlabelled images; None without consistency.
        strong: views of the same images, augmented as configured; None without consistency.
        taught: teachers' answers to the images of `strong`, [batch, K]; None without teachers.
    """

    clean: tf.Tensor
    labels: tf.Tensor
    augmented: tf.Tensor | None = None
    unlabelled: tf.Tensor | None = None
    weak: tf.Tensor | None = None
    strong: tf.Tensor | None = None
    taught: tf.Tensor | None = None


@dataclasses.dataclass(frozen=True)
class _Generated:
    """The images of one stream of the ELBO, with what the model made of them.

    Attributes:
        name: `labelled` or `unlabelled`; names the noise, too.
        images: float32 [batch, h, w, c] in [0, 1].
        encoded: posterior and features of the images.
        labels: int32 [batch]; not read of unlabelled images.
        logits: float32 [batch, K].
    """

    name: str
    images: tf.Tensor
    encoded: Encoded
    labels: tf.Tensor
    logits: tf.Tensor


@dataclasses.dataclass(frozen=True)
class ScheduledWeights:
    """Loss weights that change during training, float32 scalars."""

    beta: tf.Tensor
    consistency: tf.Tensor


def _binarised(batch: Batch, noise: Noise) -> Batch:
    """Binarises the streams of the ELBO; encoder and target get the same pixels."""

    def draw(name: str, images: tf.Tensor | None) -> tf.Tensor | None:
        if images is None:
            return None
        threshold = noise.uniform(f"binarise/{name}", shape_of(images))
        return tf.cast(threshold < images, tf.float32)

    return dataclasses.replace(
        batch,
        clean=draw("clean", batch.clean),
        unlabelled=draw("unlabelled", batch.unlabelled),
    )


class Objective:
    """Computes the loss of a batch.

    Args:
        model: the model in training.
        config: loss weights and variants.
        semi: options of the unlabelled stream.
    """

    def __init__(
        self, model: JointModel, config: ObjectiveConfig, semi: SemiSupervisedConfig
    ) -> None:
        self._model = model
        self._config = config
        self._semi = semi
        self._dropout = model.config.dropout

    def __call__(
        self, batch: Batch, noise: Noise, schedule: ScheduledWeights
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the loss and its parts.

        Returns:
            This replica's share of the loss over the global batch, float32 scalar, and its share
            of `PARTS`, float32 [len(PARTS)]. Summing over replicas gives the values.
        """
        every = self._config.elbo_every
        labels = batch.labels
        if batch.augmented is not None:
            # The classifier has the augmented images, so that the others need no encoder either.
            batch = dataclasses.replace(batch, clean=batch.clean[::every], labels=labels[::every])
            every = 1
        if self._config.binarise:
            batch = _binarised(batch, noise)
        encoded = self._encode(batch)
        parts = {name: tf.constant(0.0) for name in PARTS}
        logits = {
            name: self._model.classify(
                part, noise.dropout(f"dropout/{name}", part.features, self._dropout)
            )
            for name, part in encoded.items()
        }
        total = tf.constant(0.0)
        dimensions = self._model.dimensions
        if self._config.generative_weight:
            labelled = _Generated(
                "labelled",
                batch.clean[::every],
                encoded["clean"].part(slice(None, None, every)),
                batch.labels[::every],
                logits["clean"][::every],
            )
            objective, bound = self._generative(labelled, noise, schedule, parts)
            total += self._config.generative_weight * self._mean(-objective, noise) / dimensions
            parts["elbo"] = self._mean(bound, noise)
        if self._config.alpha:
            total += self._config.alpha * self._classification(
                logits, batch.labels, labels, noise, parts
            )
        if batch.unlabelled is not None:
            total += self._unlabelled(batch, encoded, logits, noise, schedule, parts)
        parts["loss"] = total
        return total, tf.stack([parts[name] for name in PARTS])

    def _mean(self, values: tf.Tensor, noise: Noise) -> tf.Tensor:
        images = tf.cast(shape_of(values)[0] * noise.replicas, tf.float32)
        return tf.reduce_sum(values) / images

    def _encode(self, batch: Batch) -> dict[str, Encoded]:
        """Encodes all streams in one pass, so that they share the normalisation statistics."""
        streams = {
            name: images
            for name, images in (
                ("clean", batch.clean),
                ("augmented", batch.augmented),
                ("unlabelled", batch.unlabelled),
                ("weak", batch.weak),
                ("strong", batch.strong),
            )
            if images is not None
        }
        together = tf.concat(list(streams.values()), 0) if len(streams) > 1 else batch.clean
        encoded = self._model.encode(together, training=True)
        parts, start = {}, 0
        for name, images in streams.items():
            size = shape_of(images)[0]
            parts[name] = encoded.part(slice(start, start + size))
            start += size
        return parts

    def _classification(
        self,
        logits: dict[str, tf.Tensor],
        clean_labels: tf.Tensor,
        labels: tf.Tensor,
        noise: Noise,
        parts: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        def mean_of(name: str, classes: tf.Tensor) -> tf.Tensor:
            smoothing = self._config.label_smoothing
            value = losses.cross_entropy(classes, logits[name], label_smoothing=smoothing)
            return self._mean(value, noise)

        value = mean_of("clean", clean_labels)
        if "augmented" in logits:
            share = self._config.clean_share
            value = share * value + (1.0 - share) * mean_of("augmented", labels)
        right = tf.argmax(logits["clean"], -1, output_type=tf.int32) == clean_labels
        parts["cross_entropy"] = value
        parts["accuracy"] = self._mean(tf.cast(right, tf.float32), noise)
        return parts["cross_entropy"]

    def _generative(
        self,
        stream: _Generated,
        noise: Noise,
        schedule: ScheduledWeights,
        parts: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes J and the ELBO of each image, nats, float32 [batch]; adds to `parts`."""
        config, encoded = self._config, stream.encoded
        log_likelihood, latent = self._log_likelihood(stream, noise)
        kl = losses.kl_divergence(encoded.mean, encoded.log_variance)
        expected = tf.reduce_mean(log_likelihood, axis=0)
        if stream.name == "labelled":
            parts["reconstruction"] = self._mean(-expected, noise)
            parts["kl"] = self._mean(kl, noise)
        if config.bound == "importance":
            weights = losses.importance_log_weights(
                log_likelihood, latent, encoded.mean, encoded.log_variance
            )
            bound = losses.importance_bound(weights)
            return bound, bound
        charged = kl
        if config.free_bits:
            charged = losses.kl_divergence(
                encoded.mean, encoded.log_variance, free_bits=config.free_bits
            )
        objective = expected - schedule.beta * charged
        if config.entropy_weight:
            objective += config.entropy_weight * losses.posterior_entropy(encoded.log_variance)
        return objective, expected - kl

    def _log_likelihood(self, stream: _Generated, noise: Noise) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes log p(x|z, ...) - label cost, [samples, batch], and z, [samples, batch, d].

        If the decoder is given the class and an image has no label, y is summed out under p(y|x)
        and the entropy of p(y|x) is added (Kingma et al. 2014, eq. 7).
        """
        model, samples = self._model, self._config.samples
        images, labels = stream.images, stream.labels
        size, batch = model.config.latent_size, shape_of(images)[0]
        drawn = noise.normal(f"latent/{stream.name}", [samples, batch, size], axis=1)
        latent = stream.encoded.latent(drawn)
        flat = tf.reshape(latent, [samples * batch, size])
        repeated = images if samples == 1 else tf.tile(images, [samples, 1, 1, 1])

        def given(beside: tf.Tensor | None) -> tf.Tensor:
            if beside is not None and samples > 1:
                beside = tf.tile(beside, [samples, 1])
            raw = model.decode(flat, beside, training=True)
            return tf.reshape(model.observation.log_likelihood(repeated, raw), [samples, batch])

        if model.config.conditioning != "label":
            return given(model.beside_latent(stream.encoded, labels)), latent
        if stream.name == "labelled":
            return given(tf.one_hot(labels, model.num_classes)) - model.label_cost, latent
        probabilities = tf.nn.softmax(stream.logits)
        summed = tf.add_n(
            [
                probabilities[:, k] * given(tf.one_hot(tf.fill([batch], k), model.num_classes))
                for k in range(model.num_classes)
            ]
        )
        entropy = losses.categorical_entropy(stream.logits)
        return summed + entropy - model.label_cost, latent

    def _unlabelled(
        self,
        batch: Batch,
        encoded: dict[str, Encoded],
        logits: dict[str, tf.Tensor],
        noise: Noise,
        schedule: ScheduledWeights,
        parts: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """Computes the loss of the unlabelled images; adds to `parts`."""
        semi, total = self._semi, tf.constant(0.0)
        images = tf.convert_to_tensor(batch.unlabelled)
        weight = semi.elbo_weight * self._config.generative_weight
        if weight:
            none = tf.fill([shape_of(images)[0]], -1)
            stream = _Generated(
                "unlabelled", images, encoded["unlabelled"], none, logits["unlabelled"]
            )
            objective, bound = self._generative(stream, noise, schedule, parts)
            total += weight * self._mean(-objective, noise) / self._model.dimensions
            parts["unlabelled_elbo"] = self._mean(bound, noise)
        if semi.consistency:
            target = tf.stop_gradient(tf.nn.softmax(logits["weak"]))
            sure = tf.cast(tf.reduce_max(target, -1) > semi.confidence, tf.float32)
            guess = tf.argmax(target, -1, output_type=tf.int32)
            value = sure * losses.cross_entropy(guess, logits["strong"])
            parts["consistency"] = self._mean(value, noise)
            total += semi.consistency * schedule.consistency * parts["consistency"]
        if batch.taught is not None:
            value = losses.soft_cross_entropy(batch.taught, logits["strong"])
            parts["teaching"] = self._mean(value, noise)
            total += semi.teaching * parts["teaching"]
        if semi.mutual_information:
            joint = losses.joint_classes(
                tf.nn.softmax(logits["weak"]), tf.nn.softmax(logits["strong"])
            )
            joint = replica_mean(joint)
            # The value is the same on every replica, so each one contributes its share.
            parts["mutual_information"] = losses.mutual_information(joint) / noise.replicas
            total -= semi.mutual_information * parts["mutual_information"]
        return total
