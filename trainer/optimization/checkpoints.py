"""Saves and restores checkpoints that are atomic, verified by digest and resume a run exactly.

A checkpoint consists of two files: `step-N.npz` with the arrays, and `step-N.json`, written after
it, with the step, the digest of the arrays and the caller's notes. A step without a complete pair
is skipped. Data order and noise are functions of the step, so nothing else needs to be stored.
Paths may be remote (gs://). `loop.py` uses it.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from trainer.storage import files

CHECKPOINTS: Final = "checkpoints"
"""Name of the folder of checkpoints in a training's working directory."""

_LOG = logging.getLogger(__name__)
_MANIFEST = re.compile(r"step-(\d{9})\.json")


def is_manifest(name: str) -> bool:
    """Returns whether a file, given its name, makes a checkpoint complete."""
    return _MANIFEST.fullmatch(name) is not None


def pack_arrays(arrays: Sequence[np.ndarray]) -> bytes:
    """Packs arrays into the bytes of an uncompressed .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **{f"a{i:05d}": array for i, array in enumerate(arrays)})
    return buffer.getvalue()


def unpack_arrays(content: bytes) -> list[np.ndarray]:
    """Unpacks the result of `pack_arrays`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return [stored[name] for name in sorted(stored.files)]


class Checkpoints:
    """Manages the checkpoints of one run.

    Args:
        directory: folder of the checkpoints; created when the first one is saved.
        identity: digest of what the run depends on (configuration, data); resuming from a
            checkpoint of another run is an error.
        keep: number of checkpoints to keep.
    """

    def __init__(self, directory: str, *, identity: str, keep: int) -> None:
        self._directory = directory
        self._identity = identity
        self._keep = keep

    def save(self, step: int, arrays: Sequence[np.ndarray], notes: dict[str, Any]) -> None:
        """Saves a checkpoint and deletes old ones.

        Args:
            step: number of completed steps.
            arrays: variables, in an order that the caller of `restore` knows.
            notes: plain values that the run needs to resume.
        """
        content = pack_arrays(arrays)
        name = f"step-{step:09d}"
        files.write_bytes(self._path(f"{name}.npz"), content)
        manifest = {
            "step": step,
            "identity": self._identity,
            "sha256": hashlib.sha256(content).hexdigest(),
            "notes": notes,
        }
        files.write_bytes(self._path(f"{name}.json"), json.dumps(manifest).encode())
        self._remove_old()

    def restore(self) -> tuple[int, list[np.ndarray], dict[str, Any]] | None:
        """Restores the newest complete checkpoint.

        Returns:
            The number of completed steps, the arrays and the notes; None if there is no checkpoint.

        Raises:
            ValueError: the checkpoints belong to another run.
        """
        for name in self._manifests():
            # A store that does not answer is a ValueError as well, and no damage.
            content = files.read_bytes(self._path(name))
            try:
                manifest = json.loads(content)
            except ValueError:
                _LOG.warning("checkpoint %s is cut short; an older one is used", name)
                continue
            if manifest["identity"] != self._identity:
                raise ValueError(
                    f"{self._directory} holds checkpoints of a run with other data or options; "
                    "delete it or choose another directory"
                )
            arrays = self._arrays(name, manifest)
            if arrays is not None:
                return manifest["step"], unpack_arrays(arrays), manifest["notes"]
        return None

    def save_best(self, arrays: Sequence[np.ndarray]) -> None:
        """Saves the best weights so far."""
        content = pack_arrays(arrays)
        digest = hashlib.sha256(content).hexdigest().encode()
        files.write_bytes(self._path("best.npz"), content + digest)

    def restore_best(self) -> list[np.ndarray] | None:
        """Restores the weights of `save_best`; None if there are none or the file is damaged."""
        path = self._path("best.npz")
        try:
            content = files.read_bytes(path)
        except FileNotFoundError:
            return None
        content, digest = content[:-64], content[-64:]
        if hashlib.sha256(content).hexdigest().encode() != digest:
            _LOG.warning("%s is damaged; the last weights are used", path)
            return None
        return unpack_arrays(content)

    def _arrays(self, name: str, manifest: dict[str, Any]) -> bytes | None:
        name = name.replace(".json", ".npz")
        with contextlib.suppress(FileNotFoundError):
            content = files.read_bytes(self._path(name))
            if hashlib.sha256(content).hexdigest() == manifest["sha256"]:
                return content
        _LOG.warning("checkpoint %s is damaged; an older one is used", name)
        return None

    def _manifests(self) -> list[str]:
        names = files.list_names(self._directory)
        return sorted(filter(is_manifest, names), reverse=True)

    def _remove_old(self) -> None:
        kept = {name.removesuffix(".json") for name in self._manifests()[: self._keep]}
        for name in files.list_names(self._directory):
            stem = name.split(".")[0]
            is_old = name.startswith("step-") and stem not in kept
            if is_old or name.startswith(files.TEMPORARY):
                files.remove(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)
