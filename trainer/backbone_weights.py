"""Finds, identifies and reads the weights that a backbone starts from.

The command line and `train.py` call it. Importing this module is cheap: TensorFlow is imported when
weights are read.
"""

import os
import posixpath
import socket
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.request import getproxies

import numpy as np

from trainer.backbone_config import IMAGENET, BackboneConfig
from trainer.errors import InputError
from trainer.model_address import resolve_model
from trainer.storage import files

if TYPE_CHECKING:
    from trainer.model.backbone import BackboneEncoder

_KEY: Final = "model.backbone.weights"
_KERAS_MODEL: Final = ".keras"
_SUFFIXES: Final = (".weights.h5", ".h5", _KERAS_MODEL)
_MODELS: Final = ("saved_model.pb", "model.keras")
"""What a pushed version, and an output folder of `python -m trainer`, contain."""
_DIGEST_LENGTH: Final = 16
_HOST: Final = "storage.googleapis.com"
"""From where Keras downloads the weights of all networks."""
_ANSWER_SECS: Final = 5.0
_FIRST_BYTES: Final = {_KERAS_MODEL: b"PK", ".h5": b"\x89HDF"}
"""How the files begin, by suffix: zip archives and HDF5 files."""

_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's channels, which its files for `EfficientNetB0` to `B7` contain
as if it was the variance. Keras corrects it with a layer that only `weights="imagenet"` adds."""


def check_weights(config: BackboneConfig | None, *, download: bool = False) -> None:
    """Checks that the weights are there, before anything slow starts.

    Args:
        config: options of the backbone; None if there is none.
        download: Whether this machine will download ImageNet's weights, if Keras has not done so.

    Raises:
        InputError: there is no such file or folder, or it is of another kind.
    """
    if download and config is not None and config.weights == IMAGENET:
        _require_download(config.name)
    path = _path(config)
    if not path:
        return
    if files.is_folder(path):
        if not any(files.exists(posixpath.join(path, name)) for name in _MODELS):
            raise InputError(
                f"{_KEY}: {path} is a folder without {' or '.join(_MODELS)}; of pushed models "
                "name one version, or an alias as in pushed@champion"
            )
        return
    if not files.exists(path):
        raise InputError(f"{_KEY}: {path} does not exist; give a file, {IMAGENET} or none")
    if not path.endswith(_SUFFIXES):
        raise InputError(
            f"{_KEY}: expected a file *{', *'.join(_SUFFIXES)} or the folder of a pushed model; "
            f"got {path}"
        )
    first = next(first for suffix, first in _FIRST_BYTES.items() if path.endswith(suffix))
    # Such as a page of the web, or a pointer of Git LFS.
    if files.read_bytes(path, limit=len(first)) != first:
        raise InputError(
            f"{_KEY}: {path} is no file that Keras has saved, whatever its name says; copy or "
            "download it again"
        )


def digest_of(config: BackboneConfig | None) -> str:
    """Computes the digest of the content of the file or folder; empty if there is none.

    Raises:
        InputError: as for `check_weights`.
    """
    check_weights(config)
    path = _path(config)
    if not path:
        return ""
    return files.digest(path)[:_DIGEST_LENGTH]


def read_weights(config: BackboneConfig, image_shape: Sequence[int]) -> list[np.ndarray]:
    """Reads the weights of a backbone, in the order of Keras's own network.

    Args:
        config: options of a backbone with weights.
        image_shape: (height, width, channels) of the model's images.

    Raises:
        InputError: the weights cannot be had, or are those of another network.
    """
    from trainer.model.backbone import BackboneEncoder

    check_weights(config)
    encoder = BackboneEncoder(config.name, name="encoder")
    encoder.build((None, *image_shape))
    if config.weights == IMAGENET:
        arrays = _download(config.name)
    elif files.is_folder(path := _path(config)):
        with files.local_copy(path) as folder:
            arrays = _read_model(folder, config, encoder)
    else:
        with files.local_copy(path) as local:
            arrays = _read_file(local, config, encoder)
    return [
        np.square(array) if _is_deviation(config.name, weight, array) else array
        for weight, array in zip(encoder.weights, arrays, strict=True)
    ]


def _path(config: BackboneConfig | None) -> str:
    """Returns the file or folder of the weights, which an alias may name; empty if none does."""
    try:
        return resolve_model(config.path) if config and config.path else ""
    except InputError as error:
        raise InputError(f"{_KEY}: {error}") from error


def _require_download(name: str) -> None:
    """Raises InputError if Keras has no weights of the network yet and no way to download them."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    known = files.list_names(os.path.join(home, "models"))
    if any(name.lower() in file.lower().replace("_", "").replace("-", "") for file in known):
        return
    if getproxies():  # Then this machine need not reach the host itself.
        return
    try:
        socket.create_connection((_HOST, 443), timeout=_ANSWER_SECS).close()
    except OSError as error:
        raise InputError(
            f"{_KEY}: {IMAGENET}: {_HOST}, from where Keras downloads the weights of {name}, can't"
            f" be reached ({error}); give the path of the file that Keras keeps in ~/.keras/models"
            " on a machine where it can"
        ) from error


def _download(name: str) -> list[np.ndarray]:
    from trainer.model.backbone import application

    try:
        # Its own size, because the weights of some networks are offered for that one only.
        return application(name, weights=IMAGENET).get_weights()
    except Exception as error:  # Keras raises a bare Exception if a download fails.
        raise InputError(
            f"{_KEY}: {IMAGENET}: Keras can't download the weights of {name} "
            f"({_one_line(error)}); give the path of the file that Keras keeps in ~/.keras/models "
            "on a machine where it can"
        ) from error


def _read_model(
    folder: str, config: BackboneConfig, encoder: "BackboneEncoder"
) -> list[np.ndarray]:
    """Reads the backbone of a pushed model, or of an output folder of `python -m trainer`."""
    from trainer.model.weights import weight_names
    from trainer.optimization.warm_start import read_base

    try:
        base = read_base(folder)
    except ValueError as error:
        raise InputError(f"{_KEY}: {_one_line(error)}") from error
    names = weight_names(encoder.weights)
    found = [base.weights[name] for name in names if name in base.weights]
    return _fitting(found, config, encoder)


def _read_file(path: str, config: BackboneConfig, encoder: "BackboneEncoder") -> list[np.ndarray]:
    import keras

    from trainer.model.backbone import BackboneEncoder, application
    from trainer.model.vae_classifier import VaeClassifier

    try:
        if path.endswith(_KERAS_MODEL):
            model = keras.saving.load_model(path, compile=False)
            if isinstance(model, VaeClassifier) and isinstance(model.encoder, BackboneEncoder):
                model = model.encoder.network
            # What follows a backbone, such as its classifier, is last in a model's order.
            return _fitting(model.get_weights()[: len(encoder.weights)], config, encoder)
        # Keras matches the weights of a file with layers by their kinds and order.
        network = application(config.name, input_shape=encoder.network.input.shape[1:])
        with warnings.catch_warnings():
            # It warns of every layer before it fails.
            warnings.simplefilter("ignore")
            network.load_weights(path)
    except (ValueError, TypeError, KeyError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{_KEY}: {config.path} can't be read as weights of {config.name}: {_one_line(error)}; "
            "set model.backbone.name to the network that it was saved from"
        ) from error
    return network.get_weights()


def _fitting(
    arrays: list[np.ndarray], config: BackboneConfig, encoder: "BackboneEncoder"
) -> list[np.ndarray]:
    """Returns the arrays if they have the shapes of the encoder's weights."""
    if [array.shape for array in arrays] != [tuple(weight.shape) for weight in encoder.weights]:
        raise InputError(
            f"{_KEY}: {config.path} has no weights of {config.name}; set model.backbone.name to "
            "the network that it was saved from"
        )
    return arrays


def _is_deviation(name: str, weight: object, array: np.ndarray) -> bool:
    is_variance = getattr(weight, "name", "") == "variance" and name.startswith("EfficientNetB")
    return is_variance and np.allclose(array, _IMAGENET_STD, atol=1e-4)


def _one_line(error: Exception) -> str:
    """Returns the first sentence of Keras's messages, which list every layer."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0].partition(" Example error message")[0] if lines else type(error).__name__
    return first.removesuffix(".")
