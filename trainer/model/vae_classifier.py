"""Defines the VAE-classifier: one encoder that classifies, embeds, reconstructs and scores.

`step.py` trains it, and so does Keras's `fit` through `keras_training.py`. `calibration.py` fits
its quality scores, and `serving/` exports `analyse`. docs/model.md has the formulas.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.config import ModelConfig
from trainer.model.decoders import build_decoder
from trainer.model.elbo_noise import antithetic_noise
from trainer.model.encoders import Encoded, build_encoder
from trainer.model.keras_training import KerasTraining
from trainer.model.observations import observation_model
from trainer.optimization import losses
from trainer.options import DENSITY_SCORES
from trainer.quality import outliers


@keras.saving.register_keras_serializable("vaeline")
class VaeClassifier(KerasTraining):
    """A variational autoencoder whose encoder also classifies.

    The constructor creates all weights.

    Args:
        config: the model's options, or a dict of them.
        image_shape: (height, width, channels).
        num_classes: number of classes K.
        pixel_mean: mean of each channel over the training split, pixels in [0, 1].
        pixel_std: standard deviation of each channel over the training split.
        body_dtype: Keras dtype policy of the encoder and decoder bodies, `float32` or
            `mixed_bfloat16`; heads and losses are always float32.
        outlier_score: name of the outlier score, set by the calibration.

    Call arguments:
        pixels: float32 [batch, height, width, channels] in [0, 1].
    """

    def __init__(
        self,
        *,
        config: ModelConfig | dict[str, Any],
        image_shape: Sequence[int],
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        body_dtype: str = "float32",
        outlier_score: str = outliers.COMBINED,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"name": "vae_classifier", **kwargs, "dtype": "float32"})
        self.config = config if isinstance(config, ModelConfig) else ModelConfig(**config)
        self.image_shape = _shape(image_shape)
        self.num_classes = int(num_classes)
        self.pixel_mean = tuple(float(value) for value in pixel_mean)
        self.pixel_std = tuple(float(value) for value in pixel_std)
        self.body_dtype = body_dtype
        self.dimensions = math.prod(self.image_shape)
        self.observation = observation_model(
            self.config.observation, min_scale=self.config.min_scale
        )
        self._create_layers(outlier_score)
        self.built = True

    def _create_layers(self, outlier_score: str) -> None:
        config = self.config
        self.encoder = build_encoder(config, self.body_dtype)
        self.encoder.build((None, *self.image_shape))
        trunk_size = getattr(self.encoder, "trunk_size", self.encoder.feature_size)
        self.posterior_hidden = None
        if config.encoder != "mlp" and config.posterior_hidden:
            self.posterior_hidden = self._dense(
                trunk_size, config.posterior_hidden, "posterior_hidden",
                activation="relu", dtype=self.body_dtype,
            )  # fmt: skip
            trunk_size = config.posterior_hidden
        self.posterior_mean = self._dense(trunk_size, config.latent_size, "posterior_mean")
        # With zeros, training starts at unit variance whatever the scale of the features.
        self.posterior_log_variance = self._dense(
            trunk_size, config.latent_size, "posterior_log_variance", kernel_initializer="zeros"
        )
        feature_size = self.encoder.feature_size
        inputs = {
            "mean": config.latent_size,
            "features": feature_size,
            "both": config.latent_size + feature_size,
        }[config.classifier_input]
        self.classifier = self._dense(inputs, self.num_classes, "classifier")
        self.decoder = build_decoder(
            config, self.image_shape, self.observation.parameters, self.body_dtype
        )
        beside = {"latent": 0, "hidden": feature_size, "label": self.num_classes}
        self.decoder.build((None, config.latent_size + beside[config.conditioning]))
        self.scores = outliers.OutlierScore(
            num_classes=self.num_classes,
            latent_size=config.latent_size,
            feature_size=feature_size,
            neighbours=config.neighbours,
            bank=config.neighbour_bank,
            components=config.neighbour_size,
            # Without a density of the image, no score may depend on the decoder.
            score="neighbours"
            if self._has_no_density and outlier_score == outliers.COMBINED
            else outlier_score,
            name="scores",
        )

    def _dense(self, inputs: int, units: int, name: str, **kwargs: Any) -> keras.layers.Dense:
        layer = keras.layers.Dense(units, name=name, **{"dtype": "float32", **kwargs})
        layer.build((None, inputs))
        return layer

    def encode(self, pixels: tf.Tensor, *, training: bool = False) -> Encoded:
        """Computes the posterior and the features of a batch of images.

        Args:
            pixels: float32 [batch, height, width, channels] in [0, 1].
            training: whether to normalise by batch statistics.
        """
        inputs = pixels
        if self.config.encoder != "backbone":  # It scales pixels as those that it learned from.
            inputs = (pixels - tf.constant(self.pixel_mean)) / tf.constant(self.pixel_std)
        trunk, features = self.encoder(inputs, training=training)
        if self.posterior_hidden is not None:
            trunk = self.posterior_hidden(trunk)
        low, high = self.config.log_variance_bounds
        return Encoded(
            mean=self.posterior_mean(trunk),
            log_variance=tf.clip_by_value(self.posterior_log_variance(trunk), low, high),
            features=tf.cast(features, tf.float32),
        )

    def classify(self, encoded: Encoded, features: tf.Tensor | None = None) -> tf.Tensor:
        """Computes the logits, float32 [batch, K], before temperature scaling.

        Args:
            encoded: the encoder's output; the classifier reads its mean, never a sample.
            features: h after dropout, used in training; by default that of `encoded`.
        """
        features = encoded.features if features is None else features
        inputs = {
            "mean": lambda: encoded.mean,
            "features": lambda: features,
            "both": lambda: tf.concat([encoded.mean, features], axis=-1),
        }[self.config.classifier_input]()
        return self.classifier(inputs)

    def decode(
        self, latent: tf.Tensor, beside: tf.Tensor | None = None, *, training: bool = False
    ) -> tf.Tensor:
        """Decodes latent vectors into the raw parameters of the observation model.

        Args:
            latent: float32 [batch, d].
            beside: the conditioning input: h [batch, m], or class probabilities [batch, K].
            training: whether to normalise by batch statistics.

        Returns:
            float32 [batch, height, width, channels * parameters].
        """
        if self.config.conditioning != "latent":
            latent = tf.concat([latent, tf.cast(beside, tf.float32)], axis=-1)
        raw = self.decoder(latent, training=training)
        # The likelihood stays that of all pixels, so bounds compare with those of other models.
        return raw if self.config.decoder_scale == 1 else tf.image.resize(raw, self.image_shape[:2])

    def beside_latent(self, encoded: Encoded, labels: tf.Tensor) -> tf.Tensor | None:
        """Returns the decoder's conditioning input for classes int [batch].

        It is None, h [batch, m] or one-hot classes [batch, K], depending on `model.conditioning`.
        """
        if self.config.conditioning == "hidden":
            return encoded.features
        if self.config.conditioning == "label":
            return tf.one_hot(labels, self.num_classes)
        return None

    @property
    def learned_weights(self) -> list[keras.Variable]:
        """Weights that training changes, with moving statistics but without quality scores."""
        fitted = {id(weight) for weight in self.scores.weights}
        return [weight for weight in self.weights if id(weight) not in fitted]

    @property
    def label_cost(self) -> float:
        """-log p(y) of a uniform class, in nats; part of the bound if the decoder is given y."""
        return math.log(self.num_classes) if self.config.conditioning == "label" else 0.0

    def call(self, pixels: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """Computes temperature-scaled class probabilities, float32 [batch, K]."""
        logits = self.classify(self.encode(pixels, training=training))
        return tf.nn.softmax(logits / self.scores.temperature.value)

    def analyse(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes all outputs for each image in one deterministic forward pass.

        The expectation in the ELBO is taken over `model.elbo_samples` noise vectors in antithetic
        pairs, chosen by a hash of the image's pixels. Reconstruction and reconstruction error are
        those of the posterior mean. With `label` conditioning, the decoder is given the most
        probable class, and log(1 / K) is added to the bound. With `hidden` conditioning, the
        decoder is given h, so there is no bound on the image's density: `elbo` is NaN and
        `conditional_bound` has the value.

        Args:
            pixels: float32 [batch, height, width, channels] in [0, 1].

        Returns:
            Tensors by name, float32 unless stated otherwise: logits and probabilities [batch, K]
            (the latter scaled by the temperature), embedding and log_variance [batch, d],
            features [batch, m], reconstruction (of the shape of `pixels`), elbo (nats),
            reconstruction_error (mean square over the pixel values), kl (nats),
            outlier_score [batch], verdict int32 [batch] (an index into `outliers.VERDICTS`),
            is_outlier bool [batch].
        """
        result = self.measure(pixels)
        score = self.scores(
            {
                name: self._term(name, result, pixels)
                for name in outliers.terms_of(self.scores.score)
            }
        )
        verdict = self.scores.verdict(score)
        return {**result, "outlier_score": score, "verdict": verdict, "is_outlier": verdict > 0}

    def measure(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes what `analyse` does but the outlier score, which takes most of its ops."""
        encoded = self.encode(pixels)
        logits = self.classify(encoded)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits / self.scores.temperature.value),
            "embedding": encoded.mean,
            "log_variance": encoded.log_variance,
            "features": encoded.features,
            **self._reconstruct(pixels, encoded, logits),
        }

    def reconstruct(self, pixels: tf.Tensor) -> tf.Tensor:
        """Computes `analyse`'s reconstruction alone, float32 of the shape of `pixels`."""
        encoded = self.encode(pixels)
        beside = self._beside_predicted(encoded, self.classify(encoded))
        return self.observation.mean(self.decode(encoded.mean, beside))

    def outlier_terms(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes all candidate outlier scores, float32 [batch] each, for the calibration."""
        result = self.measure(pixels)
        names = [n for n in outliers.TERMS if not (self._has_no_density and n in DENSITY_SCORES)]
        return {name: self._term(name, result, pixels) for name in names}

    def decode_latent(self, latent: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Computes the expected images of latent vectors, for generation.

        Args:
            latent: float32 [batch, d].
            labels: int [batch], the classes; required with `label` conditioning.

        Returns:
            float32 [batch, height, width, channels] in [0, 1].

        Raises:
            ValueError: the decoder needs a conditioning input that was not given.
        """
        if self._has_no_density:
            raise ValueError(
                "model.conditioning = hidden can't generate: its decoder needs the features of an "
                "image; train with latent or label"
            )
        beside = None
        if self.config.conditioning == "label":
            if labels is None:
                raise ValueError("model.conditioning = label generates by class: give labels")
            beside = tf.one_hot(labels, self.num_classes)
        return self.observation.mean(self.decode(latent, beside))

    @property
    def _has_no_density(self) -> bool:
        return self.config.conditioning == "hidden"

    def _beside_predicted(self, encoded: Encoded, logits: tf.Tensor) -> tf.Tensor | None:
        return self.beside_latent(encoded, tf.argmax(logits, axis=-1, output_type=tf.int32))

    def _reconstruct(
        self, pixels: tf.Tensor, encoded: Encoded, logits: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        beside = self._beside_predicted(encoded, logits)
        noise = antithetic_noise(pixels, self.config.elbo_samples, self.config.latent_size)
        repeats = 1 + self.config.elbo_samples
        latent = tf.reshape(encoded.latent(noise), [-1, self.config.latent_size])
        if beside is not None:
            beside = tf.tile(beside, [repeats, 1])
        raw = tf.reshape(
            self.decode(latent, beside),
            [repeats, -1, *self.image_shape[:2], self.image_shape[2] * self.observation.parameters],
        )
        reconstruction = self.observation.mean(raw[0])
        # The first row of the noise is 0, the posterior mean; the bound averages the others.
        log_likelihood = self.observation.log_likelihood(pixels, raw)
        kl = losses.kl_divergence(encoded.mean, encoded.log_variance)
        bound = tf.reduce_mean(log_likelihood[1:], axis=0) - kl - self.label_cost
        result = {
            "reconstruction": reconstruction,
            "reconstruction_error": tf.reduce_mean(tf.square(pixels - reconstruction), (1, 2, 3)),
            "log_likelihood": log_likelihood[0],
            "kl": kl,
            "elbo": bound,
        }
        if self._has_no_density:
            result |= {"elbo": bound * math.nan, "conditional_bound": bound}
        return result

    def _term(self, name: str, result: dict[str, tf.Tensor], pixels: tf.Tensor) -> tf.Tensor:
        if name == "bound":
            return -result["elbo"]
        if name == "reconstruction":
            return -result["log_likelihood"]
        if name == "relative_error":
            return outliers.relative_error(pixels, result["reconstruction"])
        if name == "energy":
            return -tf.reduce_logsumexp(result["logits"], axis=-1)
        if name == "neighbours":
            return self.scores.neighbour_distance(result["features"])
        if name == "relative_mahalanobis":
            return self.scores.relative_distance(result["features"])
        return self.scores.class_distance(result["embedding"])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain values."""
        return {
            "name": self.name,
            "config": self.config.model_dump(mode="json"),
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "pixel_mean": list(self.pixel_mean),
            "pixel_std": list(self.pixel_std),
            "body_dtype": self.body_dtype,
            "outlier_score": self.scores.score,
        }


def _shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    height, width, channels = image_shape
    return int(height), int(width), int(channels)
