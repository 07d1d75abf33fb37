"""Reads single records of a part's staged files, and takes some of them out.

`finishing.py` does so for exact copies, `near_moves.py` for near-duplicates.
"""

import io

import numpy as np

from components.image_sources.example_proto import example_class
from components.tfrecord_frames import HEAD_BYTES, TAIL_BYTES, record_spans
from trainer.data import features


def take_records(content: bytes, places: np.ndarray, drop: np.ndarray) -> tuple[list[bytes], bytes]:
    """Extracts records from a TFRecord file and drops some of them.

    Args:
        content: The content of the file.
        places: int [m], the record numbers to extract, ascending.
        drop: bool [m], which of these to drop from the file.

    Returns:
        The extracted records, and the file without the dropped ones.
    """
    spans = list(record_spans(io.BytesIO(content)))
    found, rest, kept_to = [], [], 0
    for place, goes in zip(places.tolist(), drop.tolist(), strict=True):
        start, size = spans[place]
        found.append(content[start : start + size])
        if goes:
            rest.append(content[kept_to : start - HEAD_BYTES])
            kept_to = start + size + TAIL_BYTES
    rest.append(content[kept_to:])
    return found, b"".join(rest)


def described(record: bytes) -> tuple[str, str, str | None]:
    """Returns the digest, the key and the label of a serialised tf.Example."""
    values = example_class().FromString(record).features.feature
    key = values[features.FILENAME].bytes_list.value[0].decode("utf-8", "backslashreplace")
    digest = values[features.SHA256].bytes_list.value[0].decode("ascii")
    known = values[features.LABEL_TEXT].bytes_list.value
    return digest, key, known[0].decode("utf-8", "surrogateescape") if known else None
