"""Keeps the model's answers on the calibration split with the export.

`calibration.py` makes them and `serving/export.py` writes them; `components/review` derives from
them how many labels of an archive are correct.
"""

from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from trainer.errors import InputError
from trainer.storage.arrays import ArraysError, read_arrays, write_arrays
from trainer.storage.failures import MissingError

HELD_OUT_FILE: Final = "assets.extra/held_out.npz"
"""Path of the file within an exported SavedModel."""


@dataclass(frozen=True)
class HeldOutAnswers:
    """Holds the answers on the n labelled images of a split that training has not seen.

    Attributes:
        label: int32 [n], index of the most probable class.
        given: int32 [n], index of the class that the data gives.
        probability: float32 [n], calibrated probability of `label`.
        outlier_score: float32 [n].
    """

    label: np.ndarray
    given: np.ndarray
    probability: np.ndarray
    outlier_score: np.ndarray

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.label)

    @property
    def is_wrong(self) -> np.ndarray:
        """Whether each label differs from the given one, bool [n]."""
        return self.label != self.given


def write_held_out(answers: HeldOutAnswers, path: str) -> None:
    """Writes the answers as one .npz file."""
    write_arrays(path, {name: getattr(answers, name) for name in _NAMES})


def read_held_out(path: str) -> HeldOutAnswers:
    """Reads answers that `write_held_out` wrote.

    Raises:
        InputError: The file is missing or damaged; the message names it.
    """
    try:
        return HeldOutAnswers(**read_arrays(path, _NAMES))
    except MissingError:
        raise InputError(
            f"{path}: no answers on a calibration split; an earlier release pushed this model, or"
            " it had no such split: push it again with `vaeline run`"
        ) from None
    except ArraysError as error:
        raise InputError(f"{path}: not readable: {error}; push the model again") from error


_NAMES: Final = tuple(field.name for field in fields(HeldOutAnswers))
