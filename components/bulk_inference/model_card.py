"""What a model directory says about itself, read without TensorFlow.

The job reads it before anything heavy is imported; workers read it when they load the model.
"""

import json
import posixpath
from dataclasses import dataclass
from typing import Any

from components.bulk_inference import storage
from components.image_sources.errors import InputError
from components.model_push.versions import MODEL_FILE, newest_folders
from serving import names

_DIGESTS = ("model", "transform", "calibration", "code")


@dataclass(frozen=True)
class ModelCard:
    """The facts of `assets.extra/model.json` that a bulk job needs.

    Attributes:
        path: The version's folder.
        classes: Names of the classes, in the order of `label_index`.
        image_shape: Height, width, channels of the model's images.
        embedding_size: Length of an embedding.
        digests: Of model, transform, calibration and code; empty where the card has none.
        summaries: Of the training data, for the drift report; empty where the card has none.
        body_dtype: Keras dtype policy that encoder and decoder compute in.
    """

    path: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    embedding_size: int
    digests: dict[str, str]
    summaries: dict[str, Any]
    body_dtype: str = "float32"


def find_model(path: str) -> str:
    """Finds the folder to load.

    Args:
        path: A model's folder, or a folder of pushed versions (`1/`, `2/`, ...), of which the
            highest is taken.

    Returns:
        The folder that holds `saved_model.pb`.

    Raises:
        InputError: if there is none.
    """
    if not path:
        raise InputError("no model is named; give the folder of a pushed model (bulk.model)")
    if storage.exists(posixpath.join(path, MODEL_FILE)):
        return path
    newest = next(newest_folders(path), None)
    if newest is not None:
        return newest
    if not storage.is_folder(path):
        raise InputError(f"{path}: no such folder; give the folder of a pushed model")
    raise InputError(
        f"{path}: no saved_model.pb there, and no folder of a version with one; give the folder"
        " that the pipeline pushed to"
    )


def read_card(path: str) -> ModelCard:
    """Reads the card of a model.

    Args:
        path: As for `find_model`.

    Raises:
        InputError: if the folder holds no model of vaeline.
    """
    folder = find_model(path)
    file = posixpath.join(folder, names.EXTRA_ASSETS, names.MODEL_CARD)
    try:
        facts = json.loads(storage.read_bytes(file))
        height, width, channels = (int(side) for side in facts["image_shape"])
        digests = facts.get("digests", {})
        return ModelCard(
            path=folder,
            classes=tuple(str(name) for name in facts["classes"]),
            image_shape=(height, width, channels),
            embedding_size=int(facts["embedding_size"]),
            digests={name: str(digests.get(name, "")) for name in _DIGESTS},
            summaries=facts.get("summaries") or {},
            body_dtype=str(facts.get("body_dtype", "float32")),
        )
    except FileNotFoundError:
        raise InputError(
            f"{folder}: a SavedModel, but not one of vaeline: {names.EXTRA_ASSETS}/"
            f"{names.MODEL_CARD} is missing; push it with `vaeline run`"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{file}: not a model card that this version reads: {what}; push the model again with"
            " `vaeline run`"
        ) from error
