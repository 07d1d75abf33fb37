"""Finds a pushed model, and reads its card and its input options, without TensorFlow.

The job reads the card before any slow import; workers read it when they load the model.
"""

import contextlib
import math
import posixpath
from collections.abc import Sequence
from typing import Any

import yaml

from components.bulk_inference.config import BulkJob
from components.image_sources.config import LimitsConfig
from components.model_push.versions import MODEL_FILE, newest_folders
from serving import names
from trainer.errors import InputError
from trainer.model_address import resolve_model
from trainer.model_card import EXPORTED_CARD, CardError, ModelCard, parse_card
from trainer.storage import files


def find_model(path: str) -> str:
    """Finds the folder to load.

    Args:
        path: A model's folder, or a folder of pushed versions (`1/`, `2/`, ...), of which the
            highest is used; or such a folder and an alias, `DIRECTORY@ALIAS`.

    Returns:
        The folder that holds `saved_model.pb`.

    Raises:
        InputError: if there is none.
    """
    if not path:
        raise InputError("no model is named; give the folder of a pushed model (bulk.model)")
    path = resolve_model(path)
    if files.exists(posixpath.join(path, MODEL_FILE)):
        return path
    newest = next(newest_folders(path), None)
    if newest is not None:
        return newest
    if not files.is_folder(path):
        raise InputError(f"{path}: no such folder; give the folder of a pushed model")
    raise InputError(
        f"{path}: no saved_model.pb there, and no folder of a version with one; give the folder"
        " that the pipeline pushed to"
    )


def read_card(path: str) -> ModelCard:
    """Reads the card of a model.

    Args:
        path: As for `find_model`.

    Returns:
        The card, with the version's folder as `path`; classes, shape and embedding size are set.

    Raises:
        InputError: if the folder holds no model that vaeline exported.
    """
    folder = find_model(path)
    file = posixpath.join(folder, EXPORTED_CARD)
    try:
        card = parse_card(files.read_bytes(file), path=folder)
        return card.require("image_shape", "classes", "embedding_size")
    except FileNotFoundError:
        raise InputError(
            f"{folder}: a SavedModel, but not one of vaeline: {EXPORTED_CARD} is missing; push it"
            " with `vaeline run`"
        ) from None
    except CardError as error:
        raise InputError(
            f"{file}: not a model card that this version reads: {error}; push the model again with"
            " `vaeline run`"
        ) from error


def verdict_notes(card: ModelCard, columns: Sequence[str]) -> list[str]:
    """Says that every verdict is `accept` where a model had too few images for a threshold.

    A model that was not calibrated at all has no outlier scores of a known scale, and its training
    said so.

    Args:
        card: The model.
        columns: Columns of the table.
    """
    review = card.calibration.thresholds.review
    if "verdict" not in columns or review.score is not None or not review.rate:
        return []
    # The smallest n with (n + 1) * rate >= 1 (`conformal_threshold` in trainer/quality).
    fewest = math.ceil(1 / review.rate - 1e-9) - 1
    return [
        f"every verdict is accept: the model had {card.calibration.images:,} calibration images,"
        f" and a threshold of the outlier score takes {fewest:,} (input.splits.calibration)"
    ]


def model_limits(folder: str) -> LimitsConfig:
    """Returns the limits on images that a model was trained with; its signatures have them too.

    Args:
        folder: The model's folder. A copy without its configuration, which TensorFlow does not
            need, has the default limits.

    Returns:
        Limits of which `max_bytes` and `max_pixels` are the model's.
    """
    return _limits(_input_options(folder))


def with_model_input(job: BulkJob, folder: str) -> BulkJob:
    """Returns the job with the model's input options, where it names none of its own.

    These are its limits, see `model_limits`, and the class names by number.

    Args:
        job: The job.
        folder: The folder of its model.
    """
    given = _input_options(folder)
    limits, labels = job.input.limits, job.input.labels
    found = _limits(given)
    open_ones = {
        name: getattr(found, name) for name in found.model_fields_set - limits.model_fields_set
    }
    classes = tuple(map(str, _section(given, "labels").get("names") or ()))
    chosen = {
        "limits": limits.model_copy(update=open_ones),
        "labels": labels.with_names_of_model(classes),
    }
    return job.model_copy(update={"input": job.input.model_copy(update=chosen)})


def _limits(given: dict[str, Any]) -> LimitsConfig:
    known = _section(given, "limits")
    return LimitsConfig(**{key: known[key] for key in ("max_bytes", "max_pixels") if key in known})


def _input_options(folder: str) -> dict[str, Any]:
    """Returns the `input` section of a model's training; empty if it is not there."""
    path = posixpath.join(folder, names.EXTRA_ASSETS, names.CONFIG)
    with contextlib.suppress(FileNotFoundError, yaml.YAMLError):
        return _section(yaml.safe_load(files.read_bytes(path)), "input")
    return {}


def _section(tree: Any, key: str) -> dict[str, Any]:
    found = tree.get(key) if isinstance(tree, dict) else None
    return found if isinstance(found, dict) else {}
