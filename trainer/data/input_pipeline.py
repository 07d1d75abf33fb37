"""Loads the images for training: decoded once from Examples and kept as uint8.

`pipeline/training.py` and `python -m trainer` load splits with it; the training reads them by
index. Float images are never materialised outside the compiled step.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

import numpy as np
import tensorflow as tf

from trainer.cores import usable_cores
from trainer.storage import files

_LOG = logging.getLogger(__name__)

DecodeFn = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Maps serialised tf.Examples, string [batch], to (uint8 [batch, h, w, c], int64 [batch])."""

_DECODE_BATCH = 1024
_DECODE_BYTES = 8 << 20
"""Most bytes of records, or of decoded images as float32, of one batch."""
_RECORDS_TRIED = 64
_DIGEST_BYTES = 16


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """The images of a split and their classes.

    Attributes:
        images: uint8 [n, height, width, channels], in memory or memory-mapped from a file.
        labels: int32 [n]; -1 marks a missing label.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 [n, height, width, channels], got {self.images.dtype} "
                f"{list(self.images.shape)}"
            )
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def digest(self) -> str:
        """Hexadecimal digest of all pixels and labels; takes about a second per GB, once."""
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        digest.update(f"{self.images.shape}".encode())
        digest.update(np.ascontiguousarray(self.labels).data)
        for start in range(0, len(self), _DECODE_BATCH):
            digest.update(np.ascontiguousarray(self.images[start : start + _DECODE_BATCH]).data)
        return digest.hexdigest()

    def take(self, places: np.ndarray) -> "ImageSet":
        """Returns the images at the given indices, in memory."""
        return ImageSet(np.ascontiguousarray(self.images[places]), self.labels[places])


def select(
    parts: Sequence[tuple[ImageSet, np.ndarray | None]],
    *,
    memory_limit_bytes: int = 2 << 30,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ImageSet:
    """Combines images of several splits into one set.

    Args:
        parts: splits and the indices to take from each; None takes all.
        memory_limit_bytes: larger results are written to a memory-mapped file.
        cache_dir: folder of that file.

    Returns:
        The images in the order of the parts and indices.
    """
    if len(parts) == 1 and parts[0][1] is None:
        return parts[0][0]
    store = _ImageStore(parts[0][0].images.shape[1:], memory_limit_bytes, cache_dir)
    labels = []
    for data, places in parts:
        chosen = np.arange(len(data)) if places is None else places
        for start in range(0, len(chosen), _DECODE_BATCH):
            store.append(data.images[chosen[start : start + _DECODE_BATCH]])
        labels.append(data.labels[chosen])
    return ImageSet(store.finish(), np.concatenate(labels))


def example_files(patterns: Sequence[str]) -> list[str]:
    """Returns the TFRecord files that the patterns match, sorted.

    Raises:
        ValueError: nothing matches.
    """
    found = sorted({name for pattern in patterns for name in files.matching(pattern)})
    if not found:
        raise ValueError(f"no files of Examples match {', '.join(patterns)}")
    return found


def load_splits(
    file_patterns: Mapping[str, Sequence[str]],
    decode_fn: DecodeFn,
    *,
    image_shape: tuple[int, int, int],
    memory_limit_bytes: int,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, ImageSet]:
    """Decodes all Examples of some splits.

    Args:
        file_patterns: by split, globs of TFRecord files; names ending in `.gz` are
            gzip-compressed.
        decode_fn: decodes a batch of serialised Examples.
        image_shape: (height, width, channels) of the images that `decode_fn` returns.
        memory_limit_bytes: the first split that does not fit in, together with those before it,
            and all that follow are written to memory-mapped files.
        cache_dir: folder of these files; the system's temporary directory by default. The files
            are unlinked, so their space is freed when the process ends.

    Returns:
        The images by split, in the order of the files and their records.
    """
    # Traced once for batches of any size.
    signature = [tf.TensorSpec([None], tf.string)]
    decode = tf.function(decode_fn, input_signature=signature, autograph=False)
    data = {}
    for split, patterns in file_patterns.items():
        data[split] = _load_split(patterns, decode, image_shape, memory_limit_bytes, cache_dir)
        memory_limit_bytes = max(0, memory_limit_bytes - data[split].images.nbytes)
    return data


def _load_split(
    file_patterns: Sequence[str],
    decode_fn: DecodeFn,
    image_shape: tuple[int, int, int],
    memory_limit_bytes: int,
    cache_dir: str | os.PathLike[str] | None,
) -> ImageSet:
    store = _ImageStore(image_shape, memory_limit_bytes, cache_dir)
    labels = []
    values = int(np.prod(image_shape))
    for images, classes in _decoded(example_files(file_patterns), decode_fn, values):
        store.append(images)
        labels.append(classes.astype(np.int32))
    found = np.concatenate(labels) if labels else np.zeros([0], np.int32)
    return ImageSet(store.finish(), found)


def _decoded(
    files: list[str], decode_fn: DecodeFn, values: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    compression = "GZIP" if files[0].endswith(".gz") else ""
    records = tf.data.TFRecordDataset(files, compression_type=compression)
    sizes = map(len, records.take(_RECORDS_TRIED).as_numpy_iterator())
    largest = max([*sizes, np.dtype(np.float32).itemsize * values])
    size = int(np.clip(_DECODE_BYTES // largest, 1, _DECODE_BATCH))

    def decode(batch: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
        # As in a data set, never on a GPU.
        with tf.device("CPU:0"):
            images, labels = decode_fn(batch)
        return images.numpy(), labels.numpy()

    # A data set that maps the function would optimise its graph anew for each split, which takes
    # half a second each time.
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
        for batch in records.batch(size):
            under_way.append(pool.submit(decode, batch))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


class _ImageStore:
    """Collects batches in memory up to a limit, and beyond it in an unlinked file."""

    def __init__(
        self,
        image_shape: Sequence[int],
        limit: int,
        cache_dir: str | os.PathLike[str] | None,
    ) -> None:
        self._shape = tuple(image_shape)
        self._limit = limit
        self._cache_dir = cache_dir
        self._parts: list[np.ndarray] = []
        self._bytes = 0
        self._count = 0
        self._file: IO[bytes] | None = None

    def append(self, images: np.ndarray) -> None:
        if images.shape[1:] != self._shape:
            raise ValueError(
                f"decoded images are {list(images.shape[1:])}, the configuration says "
                f"{list(self._shape)}"
            )
        self._count += len(images)
        self._bytes += images.nbytes
        self._parts.append(images)
        if self._bytes > self._limit:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            if self._cache_dir is not None:
                pathlib.Path(self._cache_dir).mkdir(parents=True, exist_ok=True)
            _LOG.info("decoded images exceed %d MB: they go to a file", self._limit >> 20)
            self._file = tempfile.TemporaryFile(dir=self._cache_dir)  # noqa: SIM115
        for part in self._parts:
            np.ascontiguousarray(part).tofile(self._file)
        self._parts.clear()

    def finish(self) -> np.ndarray:
        shape = (self._count, *self._shape)
        if self._file is not None:
            self._file.flush()
            return np.memmap(self._file, np.uint8, "r", shape=shape)
        # Each part is freed after copying, so peak memory is one set and one part.
        images = np.empty(shape, np.uint8)
        start = 0
        self._parts.reverse()
        while self._parts:
            part = self._parts.pop()
            images[start : start + len(part)] = part
            start += len(part)
        return images
