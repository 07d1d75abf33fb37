"""Reads files of corrections: labels that people changed, and images that they took out.

Ingest applies them to every batch, by the content of the images, so that archives stay as they are
and may be moved. `components/review/answers.py` writes such files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from components.csv_files import read_csv_rows
from components.image_sources.naming import clean_label
from trainer.errors import InputError
from trainer.storage.config import StorageConfig

TAKEN_OUT: Final = "-"
"""The label of an image that belongs to no class."""

_COLUMNS: Final = ("sha256", "label")
_REMEDY: Final = "name a corrections.csv that `vaeline review apply` wrote"


@dataclass(frozen=True)
class Corrections:
    """Maps the SHA-256 of an image's content, 32 bytes, to its label; None for images taken out."""

    labels: Mapping[bytes, str | None] = field(default_factory=dict)

    def label(self, digest: bytes, given: str | None) -> str | None:
        """Returns the label of an image that is not taken out."""
        return self.labels.get(digest, given)

    def is_taken_out(self, digest: bytes) -> bool:
        """Returns whether an image is to be left out."""
        return digest in self.labels and self.labels[digest] is None


@lru_cache(maxsize=4)
def read_corrections(paths: tuple[str, ...], storage: StorageConfig) -> Corrections:
    """Reads files of corrections; a later file takes precedence over an earlier one.

    Args:
        paths: CSV files with the columns `sha256` (64 hexadecimal digits) and `label`; others are
            ignored.
        storage: How buckets are reached.

    Raises:
        InputError: A file is missing or damaged; the message names the row.
    """
    labels: dict[bytes, str | None] = {}
    for path in paths:
        for where, row in read_csv_rows(path, _COLUMNS, remedy=_REMEDY, storage=storage):
            label = (row["label"] or "").strip()
            cleaned = clean_label(label) if label else None
            try:
                digest = bytes.fromhex(row["sha256"] or "")
            except ValueError:
                digest = b""
            if len(digest) != 32 or cleaned is None:
                fault = "label" if len(digest) == 32 else "SHA-256"
                raise InputError(f"{where} has no {fault}; correct or remove it")
            labels[digest] = None if label == TAKEN_OUT else cleaned
    return Corrections(labels)
