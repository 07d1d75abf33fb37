"""Defines preprocessing as a TensorFlow Transform graph, and reads records through that graph.

TFX's Transform runs `preprocessing_fn`. The trainer, the export and the evaluator run the resulting
graph through `RecordTransform`, so that training and serving cannot differ.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
import tensorflow_transform as tft

from trainer.config import ImageConfig
from trainer.data import features, pixels
from trainer.data.graph_functions import traced_once, unoptimised

IMAGE: Final = "image"
"""float32 [height, width, channels]: level / 255; `to_levels` restores the level."""
MEAN: Final = "image/mean"
"""float32 [channels]: mean over the training split, identical in every row."""
STD: Final = "image/std"
"""float32 [channels]: standard deviation over the training split, identical in every row."""
LABEL: Final = "label"
"""int64: index of the class in the vocabulary file; -1 for a missing or unknown label."""

_SUMMED_VALUES: Final = 1 << 20
"""Most channel values that are decoded and summed at once, in 8 bytes each."""
_VOCABULARY: Final = "classes"

# AutoGraph would rewrite everything that these functions call, including TFT's own layer, which
# takes four seconds per trace; nothing here needs it.
_AS_WRITTEN: Final = tf.autograph.experimental.do_not_convert


@_AS_WRITTEN
def preprocessing_fn(
    inputs: Mapping[str, Any], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """Decodes images, and computes the channel moments and the label vocabulary.

    Args:
        inputs: raw features of a batch: `image/encoded` and, if known, `image/class/text`.
        custom_config: `image`, the values of an `ImageConfig`.

    Returns:
        The features `image`, `image/mean`, `image/std` and `label` as documented above.
    """
    config = ImageConfig.model_validate(custom_config["image"])
    encoded = tf.reshape(_dense(inputs[features.ENCODED]), [-1])
    mean, std = _moments(encoded, config)
    rows = tf.shape(encoded)[0]

    label = tft.compute_and_apply_vocabulary(
        tf.reshape(_dense(inputs[features.LABEL_TEXT]), [-1]),
        default_value=-1,
        vocab_filename=_VOCABULARY,
    )
    return {
        IMAGE: pixels.to_unit(_decoder(config)(encoded)),
        MEAN: tf.broadcast_to(mean, [rows, config.channels]),
        STD: tf.broadcast_to(std, [rows, config.channels]),
        LABEL: label,
    }


@functools.cache
def _decoder(config: ImageConfig) -> Callable[[tf.Tensor], tf.Tensor]:
    """Traces `decode_batch` once, because TFT traces `preprocessing_fn` several times."""

    @traced_once(tf.TensorSpec([None], tf.string))
    def decode(encoded: tf.Tensor) -> tf.Tensor:
        return pixels.decode_batch(encoded, config)

    return decode


def _moments(encoded: tf.Tensor, config: ImageConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes mean and standard deviation of each channel over the training split, in [0, 1].

    From sums of whole numbers, so that neither the order of the images nor their division into
    batches, which Beam chooses, changes a bit of the model.

    Args:
        encoded: string `[batch]`, image files.
        config: size, channels and fit of the model's images.

    Returns:
        Two tensors, float32 `[channels]`.
    """
    channels = config.channels
    totals = tft.sum(sum_levels(encoded, config)[tf.newaxis], reduce_instance_dims=False)
    first, second, pixel_count = tf.split(tf.cast(totals, tf.float64), [channels, channels, 1])
    mean = first / pixel_count
    variance = tf.maximum(second / pixel_count - mean * mean, tf.zeros([], tf.float64))
    return tf.cast(mean / 255.0, tf.float32), tf.cast(tf.sqrt(variance) / 255.0, tf.float32)


def sum_levels(encoded: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    """Decodes and adds up a batch in parts: of small files, thousands may be in a batch.

    Args:
        encoded: string `[batch]`, image files.
        config: size, channels and fit of the model's images.

    Returns:
        int64 `[2 * channels + 1]`: sums and sums of squares by channel, and the number of pixels.
    """
    images = tf.size(encoded)
    step = max(1, _SUMMED_VALUES // math.prod(config.shape))
    decode = _decoder(config)

    def add_part(begin: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        whole = tf.cast(decode(encoded[begin : begin + step]), tf.int64)
        parts = [tf.reduce_sum(values, axis=(0, 1, 2)) for values in (whole, whole * whole)]
        return begin + step, sums + tf.concat(parts, axis=0)

    _, sums = tf.while_loop(
        lambda begin, _: begin < images,
        add_part,
        [tf.constant(0), tf.zeros([2 * config.channels], tf.int64)],
        parallel_iterations=1,
    )
    pixel_count = tf.cast(images, tf.int64) * (config.height * config.width)
    return tf.concat([sums, [pixel_count]], axis=0)


class RecordTransform:
    """Applies the Transform graph to encoded images and label texts.

    The classes are in natural order (`2` before `10`) and not in the vocabulary file's order by
    frequency, so that their order is the same in every training.

    Args:
        graph: folder of the transform graph that TFX's Transform wrote.
        image: the configuration that the graph was made with.

    Attributes:
        image: as given.
        classes: names of the classes in the order of the labels that `labels` returns.
        resources: object that an export must track to include the vocabulary table.
    """

    def __init__(self, graph: str | Path, image: ImageConfig) -> None:
        self.image = image
        self._output = tft.TFTransformOutput(str(graph))
        # Loaded directly and not as TFT's layer, which is a tf_keras layer: in an export that
        # tracks it, AutoGraph rewrites and retraces it, which takes twice as long as all the rest.
        self.resources = tf.saved_model.load(self._output.transform_savedmodel_dir)
        vocabulary = [term.decode("utf-8") for term in self._output.vocabulary_by_name(_VOCABULARY)]
        self.classes: tuple[str, ...] = tuple(sorted(vocabulary, key=_natural_key))
        self._ranks = tf.constant([self.classes.index(term) for term in vocabulary], tf.int64)

    @_AS_WRITTEN
    def images(self, encoded: tf.Tensor) -> tf.Tensor:
        """Maps image files, string `[batch]`, to float32 `[batch, height, width, channels]`."""
        return self._apply({features.ENCODED: encoded[:, tf.newaxis]})[IMAGE]

    @_AS_WRITTEN
    def labels(self, texts: tf.Tensor) -> tf.Tensor:
        """Maps class names, string `[batch]`, to int64 `[batch]`; -1 if unknown or empty."""
        # The function needs every input; in a graph, the unused decoding is pruned.
        blank = tf.fill(tf.shape(texts), _blank_image())
        inputs = {features.LABEL_TEXT: texts, features.ENCODED: blank}
        rows = {name: value[:, tf.newaxis] for name, value in inputs.items()}
        places = self._apply(rows)[LABEL]
        return tf.where(places < 0, places, tf.gather(self._ranks, tf.maximum(places, 0)))

    def moments(self) -> tuple[Any, Any]:
        """Reads the mean and standard deviation of each channel from the graph.

        Returns:
            Two float32 arrays `[channels]`, for pixels in [0, 1].
        """
        with unoptimised():
            rows = self._apply({features.ENCODED: _blank_image()[tf.newaxis, tf.newaxis]})
        return rows[MEAN][0].numpy(), rows[STD][0].numpy()

    @_AS_WRITTEN
    def decode_examples(self, serialised: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Decodes records into the arrays that training keeps in memory.

        Args:
            serialised: string `[batch]`, tf.Examples.

        Returns:
            Levels, uint8 `[batch, height, width, channels]`, and labels, int64 `[batch]`.
        """
        encoded, texts = parse_records(serialised)
        return pixels.to_levels(self.images(encoded)), self.labels(texts)

    def _apply(self, given: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """Runs the graph; missing features are empty."""
        function = self.resources.transform_fn
        ((specs,), _) = function.structured_input_signature
        rows = tf.shape(next(iter(given.values())))[0]
        inputs = {
            name: _as_specified(given[name], spec) if name in given else _empty(spec, rows)
            for name, spec in specs.items()
        }
        return function(*tf.nest.flatten(inputs, expand_composites=True))


def parse_records(serialised: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the image and the class name, `""` when missing, from tf.Examples.

    Args:
        serialised: string `[batch]`.

    Returns:
        Encoded images and class names, both string `[batch]`.
    """
    parsed = tf.io.parse_example(
        serialised,
        {
            features.ENCODED: tf.io.FixedLenFeature([], tf.string),
            features.LABEL_TEXT: tf.io.FixedLenFeature([], tf.string, default_value=""),
        },
    )
    return parsed[features.ENCODED], parsed[features.LABEL_TEXT]


def _blank_image() -> tf.Tensor:
    return tf.io.encode_png(tf.zeros([1, 1, 1], tf.uint8))


def _as_specified(value: tf.Tensor, spec: Any) -> Any:
    # A feature without a presence in the schema is sparse.
    return tf.sparse.from_dense(value) if isinstance(spec, tf.SparseTensorSpec) else value


def _empty(spec: Any, rows: tf.Tensor) -> Any:
    blank = "" if spec.dtype == tf.string else 0
    if isinstance(spec, tf.SparseTensorSpec):
        shape = tf.stack([tf.cast(rows, tf.int64), 0])
        return tf.SparseTensor(
            tf.zeros([0, 2], tf.int64), tf.constant(blank, spec.dtype, [0]), shape
        )
    sides = [1 if side is None else side for side in spec.shape.as_list()[1:]]
    return tf.fill(tf.stack([rows, *sides]), tf.constant(blank, spec.dtype))


def _dense(value: Any) -> tf.Tensor:
    if isinstance(value, tf.SparseTensor):
        return tf.sparse.to_dense(value, default_value="")
    return value


def _natural_key(name: str) -> list[str | int]:
    # The split alternates text and digits, so that only parts of the same kind are compared. The
    # name itself comes last, because "1" and "01" are two classes.
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)] + [0, name]
