"""Names the working folder of a training, so that a killed pipeline resumes where it stopped.

TFX gives each execution of a step a new folder, where a later execution would not find its
checkpoints. Instead, the Trainer and the Tuner work in a folder named after everything that
determines their result, and remove it when the result is written. Paths may be remote (gs://).
"""

import posixpath
from collections.abc import Mapping
from typing import Any, Final

from pipeline.digests import value_digest
from trainer.optimization.checkpoints import CHECKPOINTS, is_manifest
from trainer.storage import files

FOLDERS: Final = "training_folders"
"""Key in `custom_config` of the parent folder. It is not an option, so it changes no model."""
TRAININGS: Final = "training"
"""Name of the parent folder, below the artifacts of a root."""


def training_folder(root: str, step: str, identity: Mapping[str, Any]) -> str:
    """Names the folder of one training.

    Args:
        root: parent of the working folders.
        step: `trainer` or `tuner`.
        identity: everything that the step's result depends on, code included.

    Returns:
        A path that is unique to the training; the folder is not created.
    """
    return posixpath.join(root, f"{step}-{value_digest(identity)}")


def publish(folder: str, destination: str) -> None:
    """Copies a training's records (events, history) to TFX's folder of the run."""
    for name in files.walk(folder):
        # All other files are complete.
        if name.split("/")[0] != CHECKPOINTS and files.TEMPORARY not in name:
            files.copy(posixpath.join(folder, name), posixpath.join(destination, name))


def remove_training(folder: str) -> None:
    """Removes the folder of a training whose result is written.

    Killed on the way, it leaves nothing that a training would resume from: with a part of its files
    it would end with other weights, or be taken for another training.
    """
    manifests = [name for name in files.walk(folder) if is_manifest(posixpath.basename(name))]
    # The training's own first, because those of its stages determine its identity.
    for name in sorted(manifests, key=lambda name: name.count("/")):
        files.remove(posixpath.join(folder, name))
    files.remove(folder)
