"""Keeps what is compared of each image, and writes the table of near-duplicates.

`annotation/unit.py` writes a file of thumbnails and hashes for each unit; `job.py` compares all of
them when the units are finished, so that a resumed job only adds those that were missing.
"""

import io
import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.bulk_inference.output.ledger import NEAR, NEAR_DUPLICATES, Ledger
from components.image_sources.naming import printable
from components.near_duplicates.finding import NearGroups, find_near_groups
from components.near_duplicates.perceptual_hash import SIDE, WINDOWS, WORDS, hashes
from components.sinks import ParquetSink
from trainer.storage import files

COMPARED: Final = pa.schema(
    [
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("thumb", pa.binary(SIDE * SIDE)),
        ("words", pa.binary(8 * WINDOWS * WORDS)),
    ]
)
"""Columns of a unit's file: see `perceptual_hash.thumbnails` and `hashes` for the last two."""

NEAR_SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("group", pa.string()),
        ("family", pa.string()),
        ("distance", pa.float32()),
    ]
)
"""Columns of `near_duplicates.parquet`: one row per image that has near-duplicates; `group` and
`family` are keys of the image that represents the group, and of the family's first one."""


def compared_rows(
    thumbs: Mapping[int, np.ndarray], keys: Sequence[str], digests: Sequence[bytes]
) -> list[tuple[str, str, bytes, bytes]]:
    """Returns `COMPARED` rows of a batch, in source order.

    Args:
        thumbs: Thumbnails by position in the batch.
        keys: Keys of the whole batch.
        digests: SHA-256 of the whole batch.
    """
    if not thumbs:
        return []
    places = sorted(thumbs)
    pictures = np.stack([thumbs[place] for place in places])
    return [
        (printable(keys[place]), digests[place].hex(), picture.tobytes(), words.tobytes())
        for place, picture, words in zip(places, pictures, hashes(pictures), strict=True)
    ]


def write_near_table(ledger: Ledger, names: Sequence[str]) -> tuple[int, int]:
    """Compares all images and writes the table, unless it is there.

    Args:
        ledger: The job's files.
        names: The units in source order; those without images have no file.

    Returns:
        The number of groups, and of images in them.
    """
    if not files.exists(ledger.path(NEAR_DUPLICATES)):
        _write(ledger, names)
    content = io.BytesIO(ledger.read(NEAR_DUPLICATES))
    groups = pq.read_table(content, columns=["group"]).column("group")
    return pc.count_distinct(groups).as_py(), len(groups)


def _write(ledger: Ledger, names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pictures, hashed = Path(folder, "thumbs"), Path(folder, "words")
        number = 0
        with pictures.open("wb") as thumbs, hashed.open("wb") as words:
            for table in _tables(ledger, names, ["thumb", "words"]):
                number += len(table)
                thumbs.write(b"".join(table.column("thumb").to_pylist()))
                words.write(b"".join(table.column("words").to_pylist()))
        found = _no_groups()
        if number:
            found = find_near_groups(
                np.memmap(pictures, np.uint8, mode="r", shape=(number, SIDE, SIDE)),
                np.memmap(hashed, "<u8", mode="r", shape=(number, WINDOWS, WORDS)),
                np.ones(number, bool),
            )
    start = 0
    parts = []
    for table in _tables(ledger, names, ["key", "sha256"]):
        begin, end = np.searchsorted(found.images, (start, start + len(table)))
        parts.append(table.take(found.images[begin:end] - start))
        start += len(table)
    known = pa.concat_tables([COMPARED.empty_table().select(["key", "sha256"]), *parts])
    keys = known.column("key").combine_chunks()
    columns = [
        keys,
        known.column("sha256").combine_chunks(),
        keys.take(pa.array(np.searchsorted(found.images, found.groups))),
        keys.take(pa.array(np.searchsorted(found.images, found.families))),
        pa.array(found.distances),
    ]
    with files.writing(ledger.path(NEAR_DUPLICATES)) as file:
        sink = ParquetSink(file, NEAR_SCHEMA)
        sink.write(pa.RecordBatch.from_arrays(columns, schema=NEAR_SCHEMA))
        sink.close()


def _no_groups() -> NearGroups:
    none = np.empty(0, np.int64)
    return NearGroups(none, none, none, np.empty(0, np.float32), np.empty((0, 2), np.int64))


def _tables(ledger: Ledger, names: Sequence[str], columns: list[str]) -> Iterator[pa.Table]:
    """Reads columns of the files of all units that have one, in order."""
    for name in names:
        path = posixpath.join(NEAR, f"{name}.parquet")
        if files.exists(ledger.path(path)):
            yield pq.read_table(io.BytesIO(ledger.read(path)), columns=columns)
