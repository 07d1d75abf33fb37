"""Identifies a file by its size, time and samples, without reading it through.

`fingerprint.py` and `tar_index.py` call it.
"""

from collections.abc import Iterator
from typing import Final

from trainer.storage import files
from trainer.storage.config import StorageConfig

_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 64 * 1024


def file_facts(path: str, storage: StorageConfig) -> Iterator[bytes]:
    """Yields size, version, and samples from the first to the last byte."""
    size, version, _ = files.stat(path, storage)
    yield f"{size} {version}".encode()
    if files.is_remote(path):
        return
    file = files.open_ranged(path, storage)
    try:
        step = max(_SAMPLE_BYTES, (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
        for at in range(0, size, step):
            yield file.read(at, _SAMPLE_BYTES)
    finally:
        file.close()
