"""Computes outlier scores: the candidates, the chosen score and the verdict.

`calibration.py` fits the weights of the layer (temperature, neighbour bank, class Gaussians,
thresholds), which are part of the model and its export. Before calibration, every verdict is
`accept`.
"""

from typing import Any, Final

import keras
import tensorflow as tf

TERMS: Final = (
    "bound",
    "reconstruction",
    "relative_error",
    "energy",
    "neighbours",
    "mahalanobis",
    "relative_mahalanobis",
)
"""Candidate scores, larger for outliers, in the order of the standardisation weights."""
COMBINED: Final = "combined"
"""`_NEAR`, standardised, plus the excess of each of `_FAR` over 1, its 95 % quantile.

The first tells images of other classes from known ones, the others what is no such image at all.
Within the range of good images they say little about classes, so there they add little.
"""
_NEAR: Final = "relative_mahalanobis"
_FAR: Final = ("relative_error", "neighbours", "mahalanobis")
COMBINED_TERMS: Final = (_NEAR, *_FAR)
_SHARPNESS: Final = 3.0
"""How fast a term of `_FAR` begins to count about 1: it adds 0.23 at 1, and 0.02 at 0."""
VERDICTS: Final = ("accept", "review", "reject")
"""Names of the verdicts 0, 1 and 2."""

_SPARE: Final = 8
"""Candidates beyond the nearest ones, which rounding may have put in the wrong order."""
_CLIP = (-3.0, 30.0)
"""Clipping range of standardised terms, so that no single term dominates the sum."""


def terms_of(score: str) -> tuple[str, ...]:
    """Returns the candidate terms that the named score needs."""
    return COMBINED_TERMS if score == COMBINED else (score,)


def relative_error(pixels: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Computes the squared reconstruction error relative to the image's contrast: float32 [batch].

    The contrast is the squared distance from the image's mean colour. One unit per 784 values is
    added to it, so that an image of a single colour has a finite score.
    """
    axes = (1, 2, 3)
    error = tf.reduce_sum(tf.square(pixels - reconstruction), axes)
    mean = tf.reduce_mean(pixels, axis=(1, 2), keepdims=True)
    contrast = tf.reduce_sum(tf.square(pixels - mean), axes)
    floor = pixels.shape[1] * pixels.shape[2] * pixels.shape[3] / 784.0
    return error / (contrast + floor)


def _distance(values: tf.Tensor, whitening: Any, centres: Any) -> tf.Tensor:
    """Computes the squared distance to the nearest centre, in the whitened space.

    Args:
        values: float64 [batch, d].
        whitening: weight [d, d].
        centres: weight [K, d], in the whitened space.

    Returns:
        float64 [batch].
    """
    white = tf.matmul(values, tf.cast(whitening.value, tf.float64))
    squares = tf.reduce_sum(tf.square(centres.value), axis=-1) - 2.0 * tf.matmul(
        tf.cast(white, tf.float32), centres.value, transpose_b=True
    )
    # The squares of classes far apart cancel, so they only choose the nearest classes.
    count = min(1 + _SPARE, centres.shape[0])
    found = tf.gather(centres.value, tf.math.top_k(-squares, k=count).indices)
    differences = white[:, tf.newaxis] - tf.cast(found, tf.float64)
    return tf.reduce_min(tf.reduce_sum(tf.square(differences), axis=-1), axis=-1)


@keras.saving.register_keras_serializable("vaeline")
class OutlierScore(keras.layers.Layer):
    """Holds scores, thresholds and temperature as non-trainable weights of fixed shape.

    Args:
        num_classes: number of classes K.
        latent_size: size d of the latent vectors.
        feature_size: size m of the features h.
        neighbours: rank k of the neighbour whose distance in h is the score.
        bank: number of training images that are searched for neighbours.
        components: number of principal components of h that the bank keeps.
        score: name of the outlier score, one of `TERMS` or `combined`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        latent_size: int,
        feature_size: int,
        neighbours: int,
        bank: int,
        components: int,
        score: str = COMBINED,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "trainable": False})
        self.num_classes = num_classes
        self.latent_size = latent_size
        self.feature_size = feature_size
        self.neighbours = neighbours
        self.bank_size = bank
        self.components = min(components, feature_size)
        self.score = score
        self._create_weights()
        self.built = True

    def _create_weights(self) -> None:
        def add(name: str, shape: tuple[int, ...], initial: str | float = "zeros") -> Any:
            initializer = (
                initial if isinstance(initial, str) else keras.initializers.Constant(initial)
            )
            return self.add_weight(name=name, shape=shape, initializer=initializer, trainable=False)

        self.temperature = add("temperature", (), "ones")
        self.projection = add("projection", (self.feature_size, self.components))
        self.bank = add("bank", (self.bank_size, self.components))
        self.whitening = add("whitening", (self.latent_size, self.latent_size), "identity")
        self.class_means = add("class_means", (self.num_classes, self.latent_size))
        square = (self.components, self.components)
        self.feature_whitening = add("feature_whitening", square, "identity")
        self.feature_means = add("feature_means", (self.num_classes, self.components))
        self.background_whitening = add("background_whitening", square, "identity")
        self.background_mean = add("background_mean", (1, self.components))
        self.centre = add("centre", (len(TERMS),))
        self.scale = add("scale", (len(TERMS),), "ones")
        self.thresholds = add("thresholds", (2,), float("inf"))

    def neighbour_distance(self, features: tf.Tensor) -> tf.Tensor:
        """Computes the squared distance of the direction of h to its k-th neighbour in the bank.

        For directions f and g, |f - g|^2 = 2 - 2 f.g. The product is taken in the space of the
        principal components, so components outside that space add to the distance.

        Args:
            features: float32 [batch, m].

        Returns:
            float32 [batch], 0 to about 2.
        """
        direction = tf.math.l2_normalize(tf.cast(features, tf.float64), axis=-1)
        projected = tf.matmul(direction, tf.cast(self.projection.value, tf.float64))
        similarity = tf.matmul(tf.cast(projected, tf.float32), self.bank.value, transpose_b=True)
        # The search is in float32; the distances of what it finds are in float64, because a
        # difference of two numbers near 2 is wrong by 1e-6 in float32, which is much on the scale
        # of a set whose images are all alike.
        count = min(self.neighbours + _SPARE, self.bank_size)
        found = tf.gather(self.bank.value, tf.math.top_k(similarity, k=count).indices)
        exact = tf.linalg.matvec(tf.cast(found, tf.float64), projected)
        nearest = tf.math.top_k(exact, k=self.neighbours, sorted=True).values
        return tf.cast(2.0 - 2.0 * nearest[:, -1], tf.float32)

    def class_distance(self, mean: tf.Tensor) -> tf.Tensor:
        """Computes the squared Mahalanobis distance of mu to the nearest class: float32 [batch].

        The class Gaussians share one covariance (Lee et al. 2018).
        """
        distance = _distance(tf.cast(mean, tf.float64), self.whitening, self.class_means)
        return tf.cast(distance, tf.float32)

    def relative_distance(self, features: tf.Tensor) -> tf.Tensor:
        """Computes the squared distance of h to the nearest class less that to all training images.

        Both are Mahalanobis distances in the space of the principal components (Ren et al. 2021).
        Directions in which images differ whatever their class cancel.

        Args:
            features: float32 [batch, m].

        Returns:
            float32 [batch], of either sign.
        """
        projected = tf.matmul(
            tf.cast(features, tf.float64), tf.cast(self.projection.value, tf.float64)
        )
        near = _distance(projected, self.feature_whitening, self.feature_means)
        every = _distance(projected, self.background_whitening, self.background_mean)
        return tf.cast(near - every, tf.float32)

    def standardise(self, name: str, values: tf.Tensor) -> tf.Tensor:
        """Scales a term so that 0 and 1 are its calibration split's median and 95 % quantile."""
        place = TERMS.index(name)
        standard = (values - self.centre.value[place]) / self.scale.value[place]
        return tf.clip_by_value(standard, *_CLIP)

    def combine(self, terms: dict[str, tf.Tensor], score: str | None = None) -> tf.Tensor:
        """Computes the outlier score, or the named one, from its terms: float32 [batch]."""
        name = score or self.score
        if name != COMBINED:
            return self.standardise(name, terms[name])
        far = [self.standardise(each, terms[each]) for each in _FAR]
        excess = [tf.nn.softplus(_SHARPNESS * (each - 1.0)) / _SHARPNESS for each in far]
        return tf.add_n([self.standardise(_NEAR, terms[_NEAR]), *excess])

    def verdict(self, score: tf.Tensor) -> tf.Tensor:
        """Returns the verdict of a score, int32 [batch], an index into `VERDICTS`."""
        passed = score[:, tf.newaxis] > self.thresholds.value
        return tf.reduce_sum(tf.cast(passed, tf.int32), axis=-1)

    def call(self, terms: dict[str, tf.Tensor]) -> tf.Tensor:
        """Computes the outlier score from its terms."""
        return self.combine(terms)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "latent_size": self.latent_size,
            "feature_size": self.feature_size,
            "neighbours": self.neighbours,
            "bank": self.bank_size,
            "components": self.components,
            "score": self.score,
        }
