"""The functions that a pushed model answers, one for each signature.

`serving/export.py` writes them into the SavedModel. Everything is computed by one function,
`annotate_pixels`, so that two signatures can't disagree about the same image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from serving import names
from trainer import pixels
from trainer.model import VaeClassifier
from trainer.preprocessing import RecordTransform, parse_records

_TOP_K = 5
_VERDICTS = ("accept", "review", "reject")

_DEFAULT_OUTPUTS = (
    names.LABEL,
    names.PROBABILITY,
    names.PROBABILITIES,
    names.TOP_K_LABELS,
    names.TOP_K_PROBABILITIES,
    names.OUTLIER_SCORE,
    names.VERDICT,
)
_EXAMPLE_OUTPUTS = (names.LABEL, names.PROBABILITIES, names.ELBO, names.OUTLIER_SCORE)
_SCORE_OUTPUTS = (names.ELBO, names.RECONSTRUCTION_ERROR, names.OUTLIER_SCORE, names.VERDICT)


@dataclass(frozen=True)
class Signature:
    """One endpoint.

    Attributes:
        name: what clients ask for.
        function: takes one tensor and returns named tensors.
        spec: of the function's argument, whose name is the request's input name.
    """

    name: str
    function: Callable[..., dict[str, tf.Tensor]]
    spec: tf.TensorSpec


def create_signatures(model: VaeClassifier, transform: RecordTransform) -> tuple[Signature, ...]:
    """Builds every signature of a trained model.

    Args:
        model: The trained and calibrated model.
        transform: The graph that the model was trained behind.

    Returns:
        The signatures; `generate` only where the decoder makes images from a latent alone.
    """
    image_shape = model.image_shape
    classes = tf.constant(transform.classes)
    top_k = min(_TOP_K, len(transform.classes))

    # One graph function that all signatures call: it is traced once, and in each of them what is
    # not asked for is pruned away.
    @tf.function(input_signature=[tf.TensorSpec([None, *image_shape])], autograph=False)
    def annotate_unit(unit: tf.Tensor) -> dict[str, tf.Tensor]:
        analysis = model.analyse(unit)
        probabilities = analysis["probabilities"]
        top = tf.math.top_k(probabilities, k=top_k)
        top_labels = tf.gather(classes, top.indices)
        return {
            names.LABEL: top_labels[:, 0],
            names.LABEL_INDEX: tf.cast(top.indices[:, 0], tf.int64),
            names.PROBABILITY: top.values[:, 0],
            names.PROBABILITIES: probabilities,
            names.TOP_K_LABELS: top_labels,
            names.TOP_K_PROBABILITIES: top.values,
            names.EMBEDDING: analysis["embedding"],
            names.ELBO: analysis["elbo"],
            names.RECONSTRUCTION_ERROR: analysis["reconstruction_error"],
            names.OUTLIER_SCORE: analysis["outlier_score"],
            names.VERDICT: tf.gather(tf.constant(_VERDICTS), analysis["verdict"]),
            names.IMAGE: pixels.to_levels(analysis["reconstruction"]),
        }

    def annotate(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _without_image(annotate_unit(transform.images(image_bytes)))

    def annotate_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return _without_image(annotate_unit(_fit_unit(pixels, image_shape)))

    def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _only(annotate(image_bytes), _DEFAULT_OUTPUTS)

    def embed(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _only(annotate(image_bytes), (names.EMBEDDING,))

    def score(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _only(annotate(image_bytes), _SCORE_OUTPUTS)

    def reconstruct(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _only(annotate_unit(transform.images(image_bytes)), (names.IMAGE,))

    def classify_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        # No more than the evaluation reads: TFMA fetches every output.
        encoded, _ = parse_records(examples)
        return _only(annotate(encoded), _EXAMPLE_OUTPUTS)

    def transform_labels(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        _, texts = parse_records(examples)
        return {names.LABEL_INDEX: transform.labels(texts)[:, tf.newaxis]}

    def generate(latent: tf.Tensor) -> dict[str, tf.Tensor]:
        return {names.IMAGE: pixels.to_levels(model.decode_latent(latent))}

    encoded = tf.TensorSpec([None], tf.string, name=names.IMAGE_BYTES)
    examples = tf.TensorSpec([None], tf.string, name=names.EXAMPLES)
    decoded = tf.TensorSpec([None, None, None, None], tf.uint8, name=names.PIXELS)
    signatures = [
        Signature(names.SERVING_DEFAULT, serving_default, encoded),
        Signature(names.ANNOTATE, annotate, encoded),
        Signature(names.ANNOTATE_PIXELS, annotate_pixels, decoded),
        Signature(names.CLASSIFY_EXAMPLES, classify_examples, examples),
        Signature(names.TRANSFORM_LABELS, transform_labels, examples),
        Signature(names.EMBED, embed, encoded),
        Signature(names.SCORE, score, encoded),
        Signature(names.RECONSTRUCT, reconstruct, encoded),
    ]
    if model.config.conditioning == "latent":
        latent = tf.TensorSpec([None, model.config.latent_size], tf.float32, name=names.LATENT)
        signatures.append(Signature(names.GENERATE, generate, latent))
    return tuple(signatures)


def _fit_unit(levels: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    return pixels.to_unit(pixels.fit(levels, image_shape))


def _without_image(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: value for name, value in outputs.items() if name != names.IMAGE}


def _only(outputs: dict[str, tf.Tensor], wanted: tuple[str, ...]) -> dict[str, tf.Tensor]:
    return {name: outputs[name] for name in wanted}
