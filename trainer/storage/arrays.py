"""Keeps named arrays in one .npz file, in a folder or a bucket, without pickled objects.

`trainer/quality/held_out.py` and `serving/golden.py` write the files beside an exported model.
"""

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from trainer.storage import files


class ArraysError(ValueError):
    """Reports that a file does not hold the arrays; the caller names the file and what to do."""


def write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file; raises StorageError if it cannot be written."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    files.write_bytes(path, buffer.getvalue())


def read_arrays(path: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads arrays by name.

    Raises:
        MissingError: The file does not exist.
        ArraysError: It is damaged, or lacks one of them; the message is one line.
    """
    content = files.read_bytes(path)
    try:
        with np.load(io.BytesIO(content)) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ArraysError(str(error).splitlines()[0]) from error
