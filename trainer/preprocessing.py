"""Preprocessing as a TensorFlow Transform graph, and the reading of records through that graph.

TFX's Transform runs `preprocessing_fn`; the trainer, the export and the evaluator run the graph
that it writes, through `RecordTransform`, so that training and serving can't differ.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
import tensorflow_transform as tft

from trainer import features, pixels

IMAGE: Final = "image"
"""float32 [height, width, channels]: level / 255, of which `to_levels` gives the level back."""
MEAN: Final = "image/mean"
"""float32 [channels]: mean over the training split, the same in every row."""
STD: Final = "image/std"
"""float32 [channels]: standard deviation over the training split, the same in every row."""
LABEL: Final = "label"
"""int64: place of the class in the vocabulary file; -1 without a label or with an unknown one."""

_VOCABULARY: Final = "classes"

# AutoGraph would rewrite what these functions call, TFT's own layer included, which takes four
# seconds for every trace; nothing here needs it.
_AS_WRITTEN: Final = tf.autograph.experimental.do_not_convert


@_AS_WRITTEN
def preprocessing_fn(
    inputs: Mapping[str, Any], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """Decodes images, and learns the channels' moments and the label vocabulary.

    Args:
        inputs: raw features of a batch: `image/encoded`, and `image/class/text` where known.
        custom_config: `image_shape`, the model's height, width and channels.

    Returns:
        The features `image`, `image/mean`, `image/std` and `label` as documented above.
    """
    height, width, channels = custom_config["image_shape"]
    encoded = tf.reshape(_dense(inputs[features.ENCODED]), [-1])
    image = pixels.to_unit(pixels.decode_batch(encoded, (height, width, channels)))

    per_pixel = tf.reshape(image, [-1, channels])
    mean = tft.mean(per_pixel, reduce_instance_dims=False)
    std = tf.sqrt(tft.var(per_pixel, reduce_instance_dims=False))
    rows = tf.shape(encoded)[0]

    label = tft.compute_and_apply_vocabulary(
        tf.reshape(_dense(inputs[features.LABEL_TEXT]), [-1]),
        default_value=-1,
        vocab_filename=_VOCABULARY,
    )
    return {
        IMAGE: image,
        MEAN: tf.broadcast_to(mean, [rows, channels]),
        STD: tf.broadcast_to(std, [rows, channels]),
        LABEL: label,
    }


class RecordTransform:
    """The Transform graph, as functions of encoded images and label texts.

    The class order is the natural one (`2` before `10`), not the vocabulary file's order by
    frequency, so that it stays the same from one training to the next.

    Args:
        graph: folder of the transform graph, as TFX's Transform writes it.

    Attributes:
        classes: names in the order of the labels that `labels` returns.
        resources: what an export must track, or its vocabulary table is missing.
    """

    def __init__(self, graph: str | Path) -> None:
        self._output = tft.TFTransformOutput(str(graph))
        # Loaded as it is and not as TFT's layer: that one is tf_keras's, and an export that tracks
        # it has AutoGraph rewrite and trace it again, which takes twice as long as all the rest.
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
        """Maps class names, string `[batch]`, to int64 `[batch]`; -1 for unknown and empty."""
        # The function takes every input; in a graph the unused decoding is pruned.
        blank = tf.fill(tf.shape(texts), _blank_image())
        inputs = {features.LABEL_TEXT: texts, features.ENCODED: blank}
        rows = {name: value[:, tf.newaxis] for name, value in inputs.items()}
        places = self._apply(rows)[LABEL]
        return tf.where(places < 0, places, tf.gather(self._ranks, tf.maximum(places, 0)))

    def moments(self) -> tuple[Any, Any]:
        """Reads the channels' mean and standard deviation out of the graph.

        Returns:
            Two float32 arrays `[channels]`, of pixels in [0, 1].
        """
        rows = self._apply({features.ENCODED: _blank_image()[tf.newaxis, tf.newaxis]})
        return rows[MEAN][0].numpy(), rows[STD][0].numpy()

    @_AS_WRITTEN
    def decode_examples(self, serialised: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Turns records into what training keeps in memory.

        Args:
            serialised: string `[batch]`, tf.Examples.

        Returns:
            Levels, uint8 `[batch, height, width, channels]`, and labels, int64 `[batch]`.
        """
        encoded, texts = parse_records(serialised)
        return pixels.to_levels(self.images(encoded)), self.labels(texts)

    def _apply(self, given: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """Runs the graph; features that are not given are empty."""
        function = self.resources.transform_fn
        ((specs,), _) = function.structured_input_signature
        rows = tf.shape(next(iter(given.values())))[0]
        inputs = {
            name: _as_specified(given[name], spec) if name in given else _empty(spec, rows)
            for name, spec in specs.items()
        }
        return function(*tf.nest.flatten(inputs, expand_composites=True))


def parse_records(serialised: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the image and the class name, `""` where there is none, out of tf.Examples.

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
    # Without a presence in the schema a feature is sparse.
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
    # The split alternates text and digits, so that only like is compared with like. The name
    # itself comes last: "1" and "01" are two classes.
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)] + [0, name]
