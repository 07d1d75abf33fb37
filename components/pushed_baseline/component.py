"""Finds the earlier models of a run on a cluster: the baseline, and the model to start from.

Both are pushed versions. A Resolver with a custom strategy cannot be compiled for Kubeflow or
Vertex, and Kubeflow has no resolvers at all. Every pushed model was blessed, so the folder that TF
Serving watches holds the same information.
"""

import json
import posixpath
from collections.abc import Callable
from typing import TypedDict

from tfx.utils import path_utils

from components.model_push.versions import newest_folders
from components.tfx_api import tfx
from serving import names
from trainer.model_card import EXPORTED_CARD, CardError, parse_card
from trainer.storage import files


class PushedBaselineOutputs(TypedDict):
    """Declares the output of both steps besides the model: the version, empty if there is none."""

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
        model: Receives the baseline; remains without files if nothing else was pushed.
        directory: The folder of the pushed versions, local or in a store.

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
    """Copies the latest pushed model that learned from other images, to start training from it.

    The platform's cache keeps the choice for the same images: a resumed or repeated run starts
    from the same model, and its Trainer is served from the cache as well.

    Args:
        model: Receives the model; remains without files if there is none.
        directory: The folder of the pushed versions, local or in a store.
        input_fingerprint: Fingerprint of the images to learn from.

    Returns:
        `version`, the version's number.
    """
    return _copy_latest(directory, model, lambda folder: _fingerprint(folder) != input_fingerprint)


def _copy_latest(
    directory: str, model: tfx.types.standard_artifacts.Model, is_wanted: Callable[[str], bool]
) -> PushedBaselineOutputs:
    """Copies the latest version whose folder satisfies `is_wanted`, if there is one."""
    for folder in newest_folders(directory):
        if is_wanted(folder):
            files.copy_tree(folder, path_utils.serving_model_dir(model.uri))
            return {"version": posixpath.basename(folder)}
    return {"version": ""}


def _digest(folder: str) -> str:
    """Reads the digest of the weights from the model's card."""
    path = posixpath.join(folder, EXPORTED_CARD)
    try:
        return parse_card(files.read_bytes(path)).require("digests.model").digests.model
    except CardError as error:
        raise CardError(f"{path}: {error}; push the model again") from error


def _fingerprint(folder: str) -> str:
    """Reads the fingerprint of a version's training images from the record of its push."""
    path = posixpath.join(folder, names.EXTRA_ASSETS, names.PUSH_RECORD)
    try:
        return str(json.loads(files.read_bytes(path)).get("fingerprint", ""))
    except FileNotFoundError:
        return ""
