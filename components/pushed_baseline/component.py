"""The earlier models of a run on a cluster: what to compare with, and what to start from.

They are pushed versions. A Resolver with a strategy of ours can't be compiled for Kubeflow or
Vertex, and Kubeflow has no resolvers at all. What is pushed was blessed, so the folder that TF
Serving watches tells the same.
"""

import json
import posixpath
from collections.abc import Callable
from typing import TypedDict

import tensorflow as tf
from tfx import v1 as tfx
from tfx.utils import io_utils, path_utils

from components.model_push.versions import newest_folders
from serving import names
from trainer.model_card import EXPORTED_CARD, CardError, parse_card


class PushedBaselineOutputs(TypedDict):
    """What both steps give beside the model: the version; empty where there is none."""

    version: str


@tfx.dsl.components.component
def PushedBaseline(  # noqa: N802 (a component's name is the class that TFX makes of it)
    candidate: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    model: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Model],
    directory: tfx.dsl.components.Parameter[str],
) -> PushedBaselineOutputs:
    """Copies the latest pushed model that is not the candidate.

    Args:
        candidate: The trained model.
        model: Gets the baseline; stays without files where nothing else was pushed.
        directory: The folder of the pushed versions, local or gs://.

    Returns:
        `version`, the version's number.
    """
    own = _digest(path_utils.serving_model_path(candidate.uri))
    return _copy_latest(directory, model, lambda folder: _digest(folder) != own)


@tfx.dsl.components.component
def PushedBase(  # noqa: N802 (as above)
    model: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Model],
    directory: tfx.dsl.components.Parameter[str],
    input_fingerprint: tfx.dsl.components.Parameter[str],
) -> PushedBaselineOutputs:
    """Copies the latest pushed model that learned from other images, to start from.

    The platform's cache keeps what was chosen for the same images: a run that goes on, or is done
    again, starts from the same model, and its Trainer comes from the cache as well.

    Args:
        model: Gets the model; stays without files where there is none.
        directory: The folder of the pushed versions, local or gs://.
        input_fingerprint: Of the images to learn from.

    Returns:
        `version`, the version's number.
    """
    return _copy_latest(directory, model, lambda folder: _fingerprint(folder) != input_fingerprint)


def _copy_latest(
    directory: str, model: tfx.types.standard_artifacts.Model, is_wanted: Callable[[str], bool]
) -> PushedBaselineOutputs:
    """Copies the latest version whose folder is wanted, if there is one."""
    for folder in newest_folders(directory):
        if is_wanted(folder):
            io_utils.copy_dir(folder, path_utils.serving_model_dir(model.uri))
            return {"version": posixpath.basename(folder)}
    return {"version": ""}


def _digest(folder: str) -> str:
    """Digest of the weights, from the model's card."""
    path = posixpath.join(folder, EXPORTED_CARD)
    try:
        with tf.io.gfile.GFile(path) as file:
            return parse_card(file.read()).require("digests.model").digests.model
    except CardError as error:
        raise CardError(f"{path}: {error}; push the model again") from error


def _fingerprint(folder: str) -> str:
    """Fingerprint of the images behind a version, from the record of its push."""
    path = posixpath.join(folder, names.EXTRA_ASSETS, names.PUSH_RECORD)
    if not tf.io.gfile.exists(path):
        return ""
    with tf.io.gfile.GFile(path) as file:
        return str(json.loads(file.read()).get("fingerprint", ""))
