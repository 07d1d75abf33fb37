"""Samples a split's records at equal distances without reading the others.

Reports of large data sets take no longer than those of small ones, because the frames of a TFRecord
file are skipped by their lengths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.tfrecord_frames import record_spans
from pipeline.report.page import MissingPartError


@dataclass(frozen=True)
class Sampled:
    """A sample of the records of a split.

    Attributes:
        records: serialised tf.Examples, read one by one.
        total: number of records in the split.
    """

    records: Iterator[bytes]
    total: int


def sample_split(examples: Path, split: str, *, most: int, most_bytes: int) -> Sampled:
    """Samples records at equal distances.

    Args:
        examples: Folder of the Examples artifact.
        split: Name of the split.
        most: Maximum number of records.
        most_bytes: Maximum size of all records together, in bytes.

    Returns:
        The records in source order; fewer if they are large.

    Raises:
        MissingPartError: the split is missing or compressed.
    """
    paths = record_files(examples, split)
    if not paths:
        raise MissingPartError(f"The split {split} is not there.")
    starts = [_frames(path) for path in paths]
    sizes = [len(found) for found in starts]
    total = sum(sizes)
    chosen = np.unique(np.linspace(0, total - 1, min(most, total)).astype(int)) if total else []
    wanted = _within(chosen, starts, np.cumsum([0, *sizes]), most_bytes)
    return Sampled(_read(paths, wanted), total)


def record_files(examples: Path, split: str) -> list[Path]:
    """Returns the files of a split in source order; none if the split is missing.

    Raises:
        MissingPartError: the split is compressed.
    """
    paths = sorted(path for path in (examples / f"Split-{split}").glob("*") if path.is_file())
    if paths and paths[0].suffix == ".gz":
        raise MissingPartError(f"The split {split} is packed, so its images cannot be sampled.")
    return paths


def _read(paths: list[Path], wanted: list[list[tuple[int, int]]]) -> Iterator[bytes]:
    for path, frames in zip(paths, wanted, strict=True):
        if not frames:
            continue
        with path.open("rb") as file:
            for begin, size in frames:
                file.seek(begin)
                yield file.read(size)


def _frames(path: Path) -> list[tuple[int, int]]:
    with path.open("rb") as file:
        return list(record_spans(file))


def _within(
    chosen: Sequence[int] | np.ndarray,
    starts: list[list[tuple[int, int]]],
    offsets: np.ndarray,
    most_bytes: int,
) -> list[list[tuple[int, int]]]:
    """Returns the selected frames by file, thinned out until they fit into `most_bytes`."""
    files = np.searchsorted(offsets, chosen, side="right") - 1
    frames = [
        (int(file), starts[file][place - offsets[file]])
        for file, place in zip(files, chosen, strict=True)
    ]
    step = 1
    while step < len(frames) and sum(size for _, (_, size) in frames[::step]) > most_bytes:
        step += 1
    wanted: list[list[tuple[int, int]]] = [[] for _ in starts]
    for file, frame in frames[::step]:
        wanted[file].append(frame)
    return wanted
