"""Builds the serving signatures of a pushed model.

`serving/export.py` writes them into the SavedModel. One function, `annotate_scaled`, computes all
outputs, so that two signatures cannot disagree about the same image; only `embed` and `reconstruct`
need a part of the model and call that part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from serving import names
from serving.input_validation import MAX_PIXELS, has_rank, hide_rank, validate_files
from serving.predictions import MAX_CHANNELS, PIXELS_EXPECTED
from trainer.config import ImageConfig
from trainer.data import pixels
from trainer.data.graph_functions import traced_once
from trainer.data.preprocessing import RecordTransform, parse_records
from trainer.model.vae_classifier import VaeClassifier
from trainer.quality import outliers
from trainer.quality.importance import SampledBound, image_keys

_TOP_K = 5
_MOST_SAMPLES = 4096
_MOST_NAMED = 100

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
    """One endpoint of the model.

    Attributes:
        name: name that clients request.
        function: function from tensors to named tensors.
        specs: specs of the function's arguments, whose names are the input names of the request.
    """

    name: str
    function: Callable[..., dict[str, tf.Tensor]]
    specs: tuple[tf.TensorSpec, ...]


def create_signatures(
    model: VaeClassifier,
    transform: RecordTransform,
    *,
    max_pixels: int = MAX_PIXELS,
    sampled_bound: SampledBound | None = None,
) -> tuple[Signature, ...]:
    """Builds every signature of a trained model.

    Args:
        model: The trained and calibrated model.
        transform: The Transform graph that the model was trained with.
        max_pixels: Height times width above which an image file is rejected without being decoded.
        sampled_bound: The importance-weighted bound that `classify_examples` returns, if any.

    Returns:
        The signatures; `generate` and `sample` only if the decoder can make images without an input
        image.
    """
    image_shape = model.image_shape
    classes = tf.constant(transform.classes)
    top_k = min(_TOP_K, len(transform.classes))

    scaled = tf.TensorSpec([None, *image_shape])

    # All signatures call one graph function, and each prunes the outputs that it does not return.
    @traced_once(scaled)
    def annotate_scaled(unit: tf.Tensor) -> dict[str, tf.Tensor]:
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
            names.VERDICT: tf.gather(tf.constant(outliers.VERDICTS), analysis["verdict"]),
        }

    # Pruned from all outputs, these two would leave long chains of ops: TensorFlow drops the last
    # of a chain in each of its passes over a graph, which takes seconds over all signatures.
    @traced_once(scaled)
    def embed_scaled(unit: tf.Tensor) -> dict[str, tf.Tensor]:
        return {names.EMBEDDING: model.encode(unit).mean}

    @traced_once(scaled)
    def reconstruct_scaled(unit: tf.Tensor) -> dict[str, tf.Tensor]:
        return {names.IMAGE: pixels.to_levels(model.reconstruct(unit))}

    @traced_once(tf.TensorSpec([None] * 4, tf.uint8))
    def fitted(levels: tf.Tensor) -> tf.Tensor:
        return _fit_unit(levels, transform.image)

    if sampled_bound is not None:

        @traced_once(scaled)
        def bounds_of(unit: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return sampled_bound(model, unit, image_keys(unit))

    def units(image_bytes: tf.Tensor) -> tf.Tensor:
        return transform.images(validate_files(image_bytes, transform.image, max_pixels))

    def annotate(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return annotate_scaled(units(image_bytes))

    def annotate_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return annotate_scaled(fitted(pixels))

    def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _only(annotate(image_bytes), _DEFAULT_OUTPUTS)

    def serving_default_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return _only(annotate_pixels(pixels), _DEFAULT_OUTPUTS)

    def embed_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return embed_scaled(fitted(pixels))

    def score_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return _only(annotate_pixels(pixels), _SCORE_OUTPUTS)

    def embed(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return embed_scaled(units(image_bytes))

    def score(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _only(annotate(image_bytes), _SCORE_OUTPUTS)

    def reconstruct(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return reconstruct_scaled(units(image_bytes))

    def classify_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        # Only what the evaluation reads, because TFMA fetches every output.
        encoded, _ = parse_records(examples)
        unit = units(encoded)
        outputs = _only(annotate_scaled(unit), _EXAMPLE_OUTPUTS)
        if sampled_bound is not None:
            bounds, elbos = bounds_of(unit)
            outputs |= {names.IMPORTANCE_BOUND: bounds, names.IMPORTANCE_ELBO: elbos}
        return outputs

    def transform_labels(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        _, texts = parse_records(examples)
        return {names.LABEL_INDEX: transform.labels(texts)[:, tf.newaxis]}

    encoded = tf.TensorSpec([None], tf.string, name=names.IMAGE_BYTES)
    examples = tf.TensorSpec([None], tf.string, name=names.EXAMPLES)
    decoded = tf.TensorSpec([None, None, None, None], tf.uint8, name=names.PIXELS)
    return (
        Signature(names.SERVING_DEFAULT, serving_default, (encoded,)),
        Signature(names.SERVING_DEFAULT_PIXELS, serving_default_pixels, (decoded,)),
        Signature(names.ANNOTATE, annotate, (encoded,)),
        Signature(names.ANNOTATE_PIXELS, annotate_pixels, (decoded,)),
        Signature(names.CLASSIFY_EXAMPLES, classify_examples, (examples,)),
        Signature(names.TRANSFORM_LABELS, transform_labels, (examples,)),
        Signature(names.EMBED, embed, (encoded,)),
        Signature(names.EMBED_PIXELS, embed_pixels, (decoded,)),
        Signature(names.SCORE, score, (encoded,)),
        Signature(names.SCORE_PIXELS, score_pixels, (decoded,)),
        Signature(names.RECONSTRUCT, reconstruct, (encoded,)),
        *_generating(model, transform.classes),
    )


def _generating(model: VaeClassifier, classes: tuple[str, ...]) -> tuple[Signature, ...]:
    """Builds the signatures that make images from given latent vectors and from samples."""
    by_class = model.config.conditioning == "label"
    if not by_class and model.config.conditioning != "latent":
        return ()
    size = model.config.latent_size

    def decode(latent: tf.Tensor, labels: tf.Tensor | None) -> dict[str, tf.Tensor]:
        numbers = None if labels is None else _numbers(labels, classes)
        return {names.IMAGE: pixels.to_levels(model.decode_latent(latent, numbers))}

    def draw(count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        # p(z) is the standard normal distribution of the KL term in the bound.
        limit = [f"{names.COUNT} has to be 1 to {_MOST_SAMPLES}, it is", count]
        is_fair = (count > 0) & (count <= _MOST_SAMPLES)
        with tf.control_dependencies([tf.debugging.Assert(is_fair, limit)]):
            seeds = tf.stack([seed, tf.constant(0, tf.int64)])
        return tf.random.stateless_normal(tf.stack([count, size]), seeds)

    def generate(latent: tf.Tensor) -> dict[str, tf.Tensor]:
        return decode(_require_latent(latent, size), None)

    def generate_class(latent: tf.Tensor, class_label: tf.Tensor) -> dict[str, tf.Tensor]:
        latent = _require_latent(latent, size)
        return decode(latent, _require_each(class_label, latent))

    def sample(count: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        latent = draw(count, seed)
        return {names.LATENT: latent, **decode(latent, None)}

    def sample_class(
        count: tf.Tensor, seed: tf.Tensor, class_label: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        latent = draw(count, seed)
        return {names.LATENT: latent, **decode(latent, tf.fill([count], class_label))}

    latent = tf.TensorSpec([None, size], tf.float32, name=names.LATENT)
    count = tf.TensorSpec([], tf.int32, name=names.COUNT)
    seed = tf.TensorSpec([], tf.int64, name=names.SEED)
    if not by_class:
        return (
            Signature(names.GENERATE, generate, (latent,)),
            Signature(names.SAMPLE, sample, (count, seed)),
        )
    each = tf.TensorSpec([None], tf.string, name=names.CLASS_LABEL)
    one = tf.TensorSpec([], tf.string, name=names.CLASS_LABEL)
    return (
        Signature(names.GENERATE, generate_class, (latent, each)),
        Signature(names.SAMPLE, sample_class, (count, seed, one)),
    )


def _numbers(labels: tf.Tensor, classes: tuple[str, ...]) -> tf.Tensor:
    """Maps class names to their indices, int32 `[batch]`; an error lists unknown names and all."""
    matches = tf.equal(labels[:, tf.newaxis], tf.constant(classes)[tf.newaxis])
    is_known = tf.reduce_any(matches, axis=1)
    unknown = tf.boolean_mask(labels, ~is_known)
    message = ["no such class:", unknown, "; the classes are:", tf.constant(classes)]
    check = tf.debugging.Assert(tf.reduce_all(is_known), message, summarize=_MOST_NAMED)
    with tf.control_dependencies([check]):
        return tf.argmax(matches, axis=1, output_type=tf.int32)


def _require_latent(latent: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the vectors; the graph fails unless they are `[n, size]` and finite."""
    given = hide_rank(latent)
    shape = tf.shape(given)
    # Padded, so that a request with fewer axes has a second one to look at.
    is_fair = has_rank(shape, 2) & tf.equal(tf.concat([shape, [0, 0]], axis=0)[1], size)
    # Flat, because TensorFlow takes the axes to reduce from the signature's rank.
    is_fair &= tf.reduce_all(tf.math.is_finite(tf.reshape(given, [-1])))
    message = f"{names.LATENT} has to be finite numbers, float32 [n, {size}]; its shape is"
    check = tf.debugging.Assert(is_fair, [message, shape], summarize=8)
    with tf.control_dependencies([check]):
        return tf.ensure_shape(tf.identity(given), [None, size])


def _require_each(labels: tf.Tensor, latent: tf.Tensor) -> tf.Tensor:
    """Returns the class names; the graph fails unless each vector has one."""
    given = hide_rank(labels)
    shape = tf.shape(given)
    is_fair = has_rank(shape, 1) & tf.equal(tf.size(given), tf.shape(latent)[0])
    message = f"give a {names.CLASS_LABEL} for each {names.LATENT}, string [n]; its shape is"
    check = tf.debugging.Assert(is_fair, [message, shape], summarize=8)
    with tf.control_dependencies([check]):
        return tf.ensure_shape(tf.identity(given), [None])


def _fit_unit(levels: tf.Tensor, image: ImageConfig) -> tf.Tensor:
    return pixels.to_unit(pixels.fit_to_shape(_require_channels_last(levels), image))


def _require_channels_last(levels: tf.Tensor) -> tf.Tensor:
    """Returns the pixels; the graph fails if they are not `[n, height, width, 1 to 4]`.

    Images with the channels first, or with more channels than a colour image with alpha has, would
    otherwise be classified with confidence by their first channels.
    """
    given = hide_rank(levels)
    shape = tf.shape(given)
    is_image = tf.equal(tf.rank(given), 4)
    # Padded, so that a request with fewer axes has a last one to look at.
    _, height, width, channels = tf.unstack(tf.concat([shape, [0, 0, 0, 0]], axis=0)[:4], num=4)
    is_image &= (height > 0) & (width > 0) & (channels > 0) & (channels <= MAX_CHANNELS)
    check = tf.debugging.Assert(is_image, [PIXELS_EXPECTED, shape], summarize=8)
    with tf.control_dependencies([check]):
        return tf.ensure_shape(tf.identity(given), [None, None, None, None])


def _only(outputs: dict[str, tf.Tensor], wanted: tuple[str, ...]) -> dict[str, tf.Tensor]:
    return {name: outputs[name] for name in wanted}
