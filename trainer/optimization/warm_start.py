"""Starts a training from the weights of an earlier model, as far as they fit (warm start).

A weight is copied if its name and shape match, except for a head over different classes. The
optimizer starts from scratch, and a checkpoint of the same training takes precedence.
`pipeline/run_fn.py` and `python -m trainer` read the model; `train.py` copies its weights.
"""

import dataclasses
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf

from trainer.model.vae_classifier import VaeClassifier
from trainer.model.weights import digest_arrays, weight_names
from trainer.model_address import resolve_model
from trainer.model_card import CARD_FILE, EXPORTED_CARD, CardError, ModelCard, parse_card
from trainer.storage import files

# Written by `serving/export.py` and by `python -m trainer`, respectively.
_SAVED_MODEL: Final = "saved_model.pb"
_KERAS_MODEL: Final = "model.keras"
# The names that `keras.export.ExportArchive.track` gives to variables.
_VARIABLE: Final = "variables/{}/.ATTRIBUTES/VARIABLE_VALUE"

_CLASSIFIER: Final = "classifier/"
# In both decoders, the layer whose input includes the class.
_CLASS_INPUT: Final = "decoder/dense/kernel"
_MOST_NAMED: Final = 6


@dataclasses.dataclass(frozen=True)
class Base:
    """An earlier model.

    Attributes:
        source: folder of the model.
        digest: digest of all its weights, as in its card.
        classes: names of its classes, in the order of its logits.
        weights: float32 arrays by `weights.weight_names`.
    """

    source: str
    digest: str
    classes: tuple[str, ...]
    weights: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """The weights that a training takes from an earlier model.

    Attributes:
        source: folder of the model.
        digest: digest of its weights.
        weights: initial value of each learned weight of the new model; None if it is initialised
            at random.
        names: names of the learned weights, in the same order.
        same_classes: whether both models have the same classes.
    """

    source: str
    digest: str
    weights: tuple[np.ndarray | None, ...]
    names: tuple[str, ...]
    same_classes: bool

    @property
    def new(self) -> list[str]:
        """Names of the weights that are not taken from the earlier model."""
        return [n for n, w in zip(self.names, self.weights, strict=True) if w is None]

    def line(self) -> str:
        """Describes in one line how many weights came from which model."""
        new = self.new
        taken = f"{len(self.names) - len(new)} of {len(self.names)} weights are those of"
        text = f"warm start: {taken} {self.source}"
        if not new:
            return text
        more = f" and {len(new) - _MOST_NAMED} more" if len(new) > _MOST_NAMED else ""
        why = "" if self.same_classes else " (other classes)"
        return f"{text}; new{why}: {', '.join(new[:_MOST_NAMED])}{more}"

    def as_dict(self) -> dict[str, Any]:
        """Returns the facts as JSON-compatible values for the card of the new model."""
        return {"source": self.source, "model": self.digest, "new": self.new, "line": self.line()}


def read_base(folder: str) -> Base:
    """Reads an earlier model.

    Args:
        folder: folder of a SavedModel that the pipeline exported or pushed, local or in a
            store, or the output folder of `python -m trainer`; or `DIRECTORY@ALIAS`.

    Raises:
        ValueError: there is no model, or its weights do not match the digest in its card.
    """
    folder = resolve_model(folder)
    if files.exists(posixpath.join(folder, _SAVED_MODEL)):
        return _read_export(folder)
    if files.exists(posixpath.join(folder, _KERAS_MODEL)):
        return _read_keras(folder)
    raise ValueError(
        f"{folder}: no model to start from; name a folder with {_SAVED_MODEL} (a pushed version) "
        f"or {_KERAS_MODEL} (an output folder of `python -m trainer`)"
    )


def base_of(source: str, weights: Sequence[Any], classes: Sequence[str]) -> Base:
    """Copies the weights of a model that is in memory.

    Args:
        source: what the model is known by.
        weights: its Keras variables, in the model's order.
        classes: names of its classes, in the order of its logits.
    """
    arrays = [np.asarray(weight.numpy()) for weight in weights]
    named = dict(zip(weight_names(weights), arrays, strict=True))
    return Base(source, digest_arrays(arrays), tuple(classes), named)


def fit_base(base: Base, model: VaeClassifier, classes: Sequence[str]) -> WarmStart:
    """Determines which weights of an earlier model a new one can start from.

    Args:
        base: the earlier model.
        model: a new model with the options of the training.
        classes: names of its classes, in the order of its logits.
    """
    same_classes = tuple(classes) == base.classes
    bound = () if same_classes else _bound_to_classes(model)
    names = weight_names(model.learned_weights)
    found: list[np.ndarray | None] = []
    for name, weight in zip(names, model.learned_weights, strict=True):
        array = None if name.startswith(bound) else base.weights.get(name)
        fits = array is not None and array.shape == tuple(weight.shape)
        found.append(array if fits else None)
    return WarmStart(base.source, base.digest, tuple(found), tuple(names), same_classes)


def begin_with(model: VaeClassifier, start: WarmStart) -> None:
    """Copies the matching weights into a new model."""
    for weight, array in zip(model.learned_weights, start.weights, strict=True):
        if array is not None:
            weight.assign(array)


def _bound_to_classes(model: VaeClassifier) -> tuple[str, ...]:
    """Returns the name prefixes of weights that have a row or a column for each class."""
    if model.config.conditioning == "label":
        return (_CLASSIFIER, _CLASS_INPUT)
    return (_CLASSIFIER,)


def _read_export(folder: str) -> Base:
    path = posixpath.join(folder, EXPORTED_CARD)
    card = _read_card(path)
    try:
        card.require("weights", "digests.model", "classes")
    except CardError as error:
        raise ValueError(
            f"{path}: {error}: an earlier version exported it; "
            "train once with trainer.warm_start off"
        ) from error
    with files.local_copy(posixpath.join(folder, "variables")) as local:
        reader = tf.train.load_checkpoint(posixpath.join(local, "variables"))
        names = [_VARIABLE.format(place) for place in range(len(card.weights))]
        try:
            arrays = [reader.get_tensor(name) for name in names]
        except tf.errors.OpError as error:
            raise ValueError(f"{folder}: its weights can't be read: {error.message}") from error
    # The digest also covers the order of the variables, so names cannot move to other weights.
    if digest_arrays(arrays) != card.digests.model:
        raise ValueError(f"{folder}: its weights are not those of its card; the export is damaged")
    named = dict(zip(card.weights, arrays, strict=True))
    return Base(folder, card.digests.model, card.classes, named)


def _read_keras(folder: str) -> Base:
    import keras

    card = _read_card(posixpath.join(folder, CARD_FILE))
    path = posixpath.join(folder, _KERAS_MODEL)
    with files.local_copy(path) as local:
        try:
            model = keras.saving.load_model(local, compile=False)
        except ValueError as error:
            raise ValueError(
                f"{path}: is damaged or of another version of vaeline; start from a pushed "
                "version, or train it again"
            ) from error
    return base_of(folder, model.weights, card.classes)


def _read_card(path: str) -> ModelCard:
    try:
        return parse_card(files.read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path}: can't be read as the card of a model: {error}") from error
